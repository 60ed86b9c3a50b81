import socket

import grpc
import grpc.aio
import pytest

from recommend_cli.clients.services import errors_told
from recommend_cli.clients.training import Trainer
from recommend_cli.errors import CommandError
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.errors import CODE_KEY, error_from_rpc


async def test_a_service_that_is_away_is_told_in_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        async with RpcChannel(f"127.0.0.1:{taken.getsockname()[1]}", name="gpu_worker") as channel:
            with pytest.raises(CommandError) as told:
                await Trainer(channel, "default").models()
    assert told.value.message == "gpu_worker cannot be reached"
    assert "recommend status" in told.value.hint


@pytest.mark.parametrize(
    ("code", "trailers", "message"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, (), "gpu_worker did not answer in time"),
        (grpc.StatusCode.UNAVAILABLE, ((CODE_KEY, "unavailable"),), "the words"),
    ],
)
def test_what_a_service_says_itself_is_passed_on(
    code: grpc.StatusCode, trailers: tuple[tuple[str, str], ...], message: str
) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details="the words")
    with pytest.raises(CommandError) as told, errors_told():
        raise error_from_rpc(error, target="gpu_worker") from error
    assert told.value.message == message
