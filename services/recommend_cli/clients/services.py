"""The connections of the command to the services of a running stack."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from grpc.aio import AioRpcError

from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import StackState
from servicekit.errors import DeadlineExceededError, ServiceError, StartupError
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.errors import CODE_KEY


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
        call = error.__cause__
        if isinstance(call, AioRpcError) and all(key != CODE_KEY for key, _ in call.trailing_metadata()):
            # These are not the service's words but gRPC's own; servicekit puts the service's name before them.
            service = error.message.partition(": ")[0]
            late = isinstance(error, DeadlineExceededError)
            raise CommandError(
                f"{service} {'did not answer in time' if late else 'cannot be reached'}",
                hint="try again in a moment; `recommend status` shows whether it serves, and where its log is",
            ) from error
        raise CommandError(error.message) from error
    except StartupError as error:
        raise CommandError(str(error)) from error
