"""The command of the test servers: `python -m servers up`, `down`, `status`, and one at a time."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil

from servers.errors import ServerError
from servers.fleet import fleet
from servers.server import Server
from servers.settings import ServersSettings
from servers.stores import Places, write_settings


def up(server: Server) -> str:
    """Start it if it is not up."""
    began = time.monotonic()
    if not server.start():
        return "already up"
    return f"up after {time.monotonic() - began:.1f} s"


def down(server: Server) -> str:
    """Stop it if it runs."""
    began = time.monotonic()
    return f"stopped after {time.monotonic() - began:.1f} s" if server.stop() else "was not running"


def kill(server: Server) -> str:
    """End it as a crash would."""
    server.kill()
    return "killed"


def pause(server: Server) -> str:
    """Freeze it."""
    server.pause()
    return "paused"


def resume(server: Server) -> str:
    """Let it go on."""
    server.resume()
    return "goes on"


def status(server: Server) -> str:
    """Tell how it is.

    Raises:
        ServerError: It is not up.
    """
    process = server.process()
    if process is None:
        raise ServerError("down")
    if process.status() == psutil.STATUS_STOPPED:
        raise ServerError("paused")
    if not server.answers():
        raise ServerError("does not answer")
    return f"up, pid {process.pid}, {process.memory_info().rss / 1e6:.0f} MB"


# Those of the first group mean all servers when none is named.
OF_ALL: dict[str, Callable[[Server], str]] = {"up": up, "down": down, "status": status}
OF_SOME: dict[str, Callable[[Server], str]] = {
    "start": up,
    "stop": down,
    "kill": kill,
    "pause": pause,
    "continue": resume,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one thing to the servers, side by side; 0 when all went well."""
    settings = ServersSettings()
    servers = fleet(settings)
    parser = argparse.ArgumentParser(prog="servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, action in (OF_ALL | OF_SOME).items():
        command = commands.add_parser(name, help=action.__doc__.splitlines()[0] if action.__doc__ else None)
        command.add_argument("names", nargs="*" if name in OF_ALL else "+", metavar="NAME", help=", ".join(servers))
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - servers.keys():
        parser.error(f"there is no server {', '.join(sorted(unknown))}; there are {', '.join(servers)}")
    action = (OF_ALL | OF_SOME)[options.command]

    def told(server: Server) -> bool:
        try:
            said, well = action(server), True
        except ServerError as error:
            said, well = str(error), False
        sys.stdout.write(f"{server.name:10} {server.address:28} {said}\n")
        sys.stdout.flush()
        return well

    chosen = [servers[name] for name in options.names] or list(servers.values())
    with ThreadPoolExecutor(len(chosen)) as pool:
        well = all(list(pool.map(told, chosen)))
    if well and options.command == "up" and not options.names:
        write_settings(settings.stores_file, Places(servers))
        sys.stdout.write(f"a stack on them: recommend up --stores servers, which reads {settings.stores_file}\n")
    return 0 if well else 1


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # the drivers tell of every attempt while a server starts
    sys.exit(main())
