"""Starts the command `recommend`."""

import sys

from recommend_cli.app import app
from recommend_cli.console import show_error
from recommend_cli.errors import CommandError


def main() -> None:
    """Run the command line; an error that a person can do something about is one line and exit code 1."""
    try:
        app()
    except CommandError as error:
        show_error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
