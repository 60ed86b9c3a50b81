"""List the records that could not be applied, show one, or send them again, in a cluster: what `recommend dlq` does.

A service's pod may talk to Kafka, has the engine's code and knows the addresses and the login; so it runs there:

    kubectl -n recommendation exec -i deploy/profile-store -- python - list TOPIC < docs/examples/dead_letters.py
"""

# ruff: noqa: INP001 - a program of its own, in no package

import argparse
import sys

from servicekit.command import run_command
from servicekit.eventlog.dead_letters import DeadLetters
from servicekit.eventlog.open import event_log_of
from servicekit.settings import ServiceSettings, load_settings


async def run(action: str, names: list[str]) -> None:
    """Do it and print a line for each letter."""
    log = event_log_of(load_settings(ServiceSettings))
    try:
        letters = DeadLetters(log)
        if action == "list":
            found = [each for topic in names for each in await letters.list(topic)]
        elif action == "show":
            found = [await letters.show(each) for each in names]
        else:
            found = list(await letters.retry(names))
        for each in found:
            sys.stdout.write(f"{each.letter_id}\t{each.consumer}\t{each.attempts}\t{each.error}\n")
            if action == "show":
                sys.stdout.write(f"{each.key}\t{each.value!r}\n")
    finally:
        await log.close()


def main() -> int:
    """Read the arguments, do it, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=("list", "show", "retry"))
    parser.add_argument("names", nargs="+", help="topics to list, or the letters' ids as `list` prints them")
    options = parser.parse_args()
    return run_command(run(options.action, options.names))


if __name__ == "__main__":
    sys.exit(main())
