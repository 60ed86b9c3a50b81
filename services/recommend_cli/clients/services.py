"""The connections of the command to the services of a running stack."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import StackState
from servicekit.errors import ServiceError, StartupError
from servicekit.rpc.client import RpcChannel


@asynccontextmanager
async def connected(state: StackState, service: str) -> AsyncIterator[RpcChannel]:
    """Connect to one service of a stack: to its first replica, since what a call began is known where it began."""
    async with RpcChannel(state.replicas(service)[0].endpoint, name=service) as channel:
        yield channel


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn what a service or a store says against a call into an error for people."""
    try:
        yield
    except ServiceError as error:
        raise CommandError(error.message) from error
    except StartupError as error:
        raise CommandError(str(error)) from error
