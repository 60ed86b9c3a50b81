"""Finds free ports for the services of a stack."""

import random
import socket
from typing import Final

from recommend_cli.errors import CommandError

LOOPBACK: Final = "127.0.0.1"

# Below the range from which the system takes the ports of outgoing connections, so that a port which is free now is
# still free when its service starts, or starts again after a crash.
_RANGE: Final = range(20_000, 32_000)
_TRIES: Final = 1_000


def free_ports(count: int, *, generator: random.Random | None = None) -> list[int]:
    """Give distinct ports on which nobody listens.

    Raises:
        CommandError: Too few were found.
    """
    generator = generator or random.SystemRandom()
    found: dict[int, None] = {}
    for _ in range(_TRIES):
        if len(found) == count:
            break
        port = generator.choice(_RANGE)
        if is_free(port):
            found[port] = None
    if len(found) < count:
        raise CommandError(f"{count} free ports between {_RANGE.start} and {_RANGE.stop} were not found")
    return list(found)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
