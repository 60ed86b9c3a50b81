"""Calls: deadlines, retries, the breaker, streams, the end of a channel."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import REGISTRY

from servicekit.deadline import deadline_after
from servicekit.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from servicekit.rpc.breaker import CircuitBreaker, CircuitState
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer
from servicekit.testing import eventually, free_port, served


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def channel_to(server: GrpcServer, breaker: CircuitBreaker) -> RpcChannel:
    return RpcChannel(f"127.0.0.1:{server.port}", name="guarded", breaker=breaker)


def fails(*errors: ServiceError | None) -> Any:
    """Raise one error after the other, then none."""
    left = list(errors)

    def act(_request: bytes) -> None:
        error = left.pop(0) if left else None
        if error is not None:
            raise error

    return act


async def test_a_late_answer_is_the_deadlines_error(echo: Any, make_stub: Any) -> None:
    echo.act = lambda _request: asyncio.sleep(30)
    async with served(echo.register) as (_, channel):
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError, match="under-test"):
            await channel.unary(make_stub(channel).Echo, b"", timeout_s=0.1)
        assert 0.09 < time.monotonic() - started < 2.0


async def test_several_addresses_are_used_in_turn_and_one_that_is_gone_is_left_out(echo: Any, make_stub: Any) -> None:
    other = type(echo)()
    async with AsyncExitStack() as opened:
        staying, _ = await opened.enter_async_context(served(other.register))
        async with served(echo.register) as (going, _):
            both = f"127.0.0.1:{going.port},127.0.0.1:{staying.port}"
            channel = await opened.enter_async_context(RpcChannel(both, name="replicas"))
            call = make_stub(channel).Echo

            async def both_were_asked() -> bool:
                await channel.unary(call, b"a", timeout_s=5.0)
                return bool(echo.requests and other.requests)

            await eventually(both_were_asked)
        before = len(other.requests)
        for _ in range(20):
            assert await channel.unary(call, b"b", timeout_s=5.0, idempotent=True) == b"b"
        assert len(other.requests) == before + 20


async def test_without_time_nothing_is_sent(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        with deadline_after(0.003), pytest.raises(DeadlineExceededError, match="too little time"):
            await channel.unary(make_stub(channel).Echo, b"", timeout_s=5.0)
        with deadline_after(0.003), pytest.raises(DeadlineExceededError, match="too little time"):
            _ = [each async for each in channel.stream(make_stub(channel).Count, b"1", timeout_s=5.0)]
    assert echo.requests == []


async def test_an_idempotent_call_is_tried_three_times(echo: Any, make_stub: Any) -> None:
    retries = metric("grpc_client_retries_total", target="under-test")
    echo.act = fails(UnavailableError("1"), UnavailableError("2"))
    async with served(echo.register) as (_, channel):
        assert await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0, idempotent=True) == b"a"
        assert len(echo.requests) == 3
        assert metric("grpc_client_retries_total", target="under-test") == retries + 2

        echo.act = fails(*(UnavailableError(str(number)) for number in range(9)))
        with pytest.raises(UnavailableError, match="2"):
            await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0, idempotent=True)
        assert len(echo.requests) == 6


async def test_other_calls_are_not_tried_again(echo: Any, make_stub: Any) -> None:
    echo.act = fails(UnavailableError("once"))
    async with served(echo.register) as (_, channel):
        with pytest.raises(UnavailableError):
            await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0)
    assert len(echo.requests) == 1


@pytest.mark.parametrize(
    "error", [InvalidArgumentError("x"), NotFoundError("x"), ResourceExhaustedError("x"), InternalError("x")]
)
async def test_other_errors_are_not_tried_again(error: ServiceError, echo: Any, make_stub: Any) -> None:
    echo.act = fails(error)
    async with served(echo.register) as (_, channel):
        with pytest.raises(type(error)):
            await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0, idempotent=True)
    assert len(echo.requests) == 1


async def test_retries_stay_within_the_deadline(make_stub: Any) -> None:
    async with RpcChannel(f"127.0.0.1:{free_port()}", name="nobody") as channel:
        started = time.monotonic()
        with deadline_after(0.02), pytest.raises(ServiceError, match="nobody"):
            await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0, idempotent=True)
        assert time.monotonic() - started < 1.0


async def test_nobody_there_is_unavailable_at_once(make_stub: Any) -> None:
    async with RpcChannel(f"127.0.0.1:{free_port()}", name="nobody") as channel:
        with pytest.raises(UnavailableError, match="nobody"):
            await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0)


async def test_waiting_for_nobody_ends() -> None:
    async with RpcChannel(f"127.0.0.1:{free_port()}", name="nobody") as channel:
        with pytest.raises(UnavailableError, match=r"within 0\.1 s"):
            await channel.wait_ready(0.1)


async def test_a_service_that_comes_back_is_found(echo: Any, make_stub: Any) -> None:
    port = free_port()
    async with RpcChannel(f"127.0.0.1:{port}", name="returning") as channel:
        with pytest.raises(UnavailableError):
            await channel.unary(make_stub(channel).Echo, b"a", timeout_s=1.0)

        async with GrpcServer(host="127.0.0.1", port=port, service_names=[], register=echo.register):
            await channel.wait_ready(5.0)
            assert await channel.unary(make_stub(channel).Echo, b"b", timeout_s=1.0) == b"b"


async def test_the_breaker_opens_and_closes_again(echo: Any, make_stub: Any) -> None:
    breaker = CircuitBreaker("under-test", failure_threshold=2, open_s=0.05)
    echo.act = fails(UnavailableError("1"), InternalError("2"))
    async with (
        served(echo.register) as (server, _),
        channel_to(server, breaker) as channel,
    ):
        stub = make_stub(channel)
        for kind in (UnavailableError, InternalError, CircuitOpenError, CircuitOpenError):
            with pytest.raises(kind):
                await channel.unary(stub.Echo, b"a", timeout_s=5.0)
        with pytest.raises(CircuitOpenError):
            _ = [each async for each in channel.stream(stub.Count, b"1", timeout_s=5.0)]
        assert len(echo.requests) == 2

        await asyncio.sleep(0.06)
        assert await channel.unary(stub.Echo, b"a", timeout_s=5.0) == b"a"
        assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize(
    "error",
    [InvalidArgumentError("x"), UnauthenticatedError("x"), NotFoundError("x"), ResourceExhaustedError("x")],
)
async def test_answers_do_not_open_the_breaker(error: ServiceError, echo: Any, make_stub: Any) -> None:
    breaker = CircuitBreaker("under-test", failure_threshold=2)
    echo.act = fails(*[error] * 5)
    async with (
        served(echo.register) as (server, _),
        channel_to(server, breaker) as channel,
    ):
        for _ in range(5):
            with pytest.raises(type(error)):
                await channel.unary(make_stub(channel).Echo, b"a", timeout_s=5.0)
    assert breaker.state is CircuitState.CLOSED


async def test_a_cancelled_try_does_not_block_the_breaker(echo: Any, make_stub: Any) -> None:
    breaker = CircuitBreaker("under-test", failure_threshold=1, open_s=0.0)
    echo.act = fails(UnavailableError("1"))
    async with (
        served(echo.register) as (server, _),
        channel_to(server, breaker) as channel,
    ):
        stub = make_stub(channel)
        with pytest.raises(UnavailableError):
            await channel.unary(stub.Echo, b"a", timeout_s=5.0)
        echo.act = lambda _request: asyncio.sleep(30)
        for attempt in (
            channel.unary(stub.Echo, b"b", timeout_s=5.0),
            _first(channel.stream(stub.Count, b"2", timeout_s=5.0)),
        ):
            task: asyncio.Task[Any] = asyncio.create_task(attempt)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        echo.act = lambda _request: None
        assert await channel.unary(stub.Echo, b"c", timeout_s=5.0) == b"c"


async def _first(stream: Any) -> bytes:
    async for _ in stream:
        await asyncio.sleep(30)
    return b""


async def _all(stream: Any) -> list[bytes]:
    return [each async for each in stream]


async def test_too_little_time_does_not_open_the_breaker_and_enough_does(echo: Any, make_stub: Any) -> None:
    breaker = CircuitBreaker("under-test", failure_threshold=2)
    echo.act = lambda _request: asyncio.sleep(30)
    async with served(echo.register) as (server, _), channel_to(server, breaker) as channel:
        stub = make_stub(channel)
        for timeout_s, state in ((0.015, CircuitState.CLOSED), (0.05, CircuitState.OPEN)):
            for _ in range(3):
                with pytest.raises((DeadlineExceededError, CircuitOpenError)):
                    await channel.unary(stub.Echo, b"a", timeout_s=timeout_s)
            assert breaker.state is state


async def test_a_stream_gives_what_came_before_the_error(echo: Any, make_stub: Any) -> None:
    echo.act = fails(None, None, NotFoundError("gone", field="cursor"))
    got: list[bytes] = []

    async def read(stream: AsyncIterator[bytes]) -> None:
        async for each in stream:
            got.append(each)  # noqa: PERF401 - a list that is made at once would be lost with the error

    async with served(echo.register) as (_, channel):
        with pytest.raises(NotFoundError, match="gone") as raised:
            await read(channel.stream(make_stub(channel).Count, b"9", timeout_s=5.0))
    assert got == [b"0", b"1", b"2"]
    assert raised.value.field == "cursor"


async def test_a_stream_has_one_deadline_for_all_of_it(echo: Any, make_stub: Any) -> None:
    echo.act = lambda _request: asyncio.sleep(0.02)
    async with served(echo.register) as (_, channel):
        with pytest.raises(DeadlineExceededError):
            _ = [each async for each in channel.stream(make_stub(channel).Count, b"1000", timeout_s=0.1)]


async def test_calls_on_a_closing_channel_are_told(echo: Any, make_stub: Any) -> None:
    echo.act = lambda _request: asyncio.sleep(30)
    async with served(echo.register) as (server, _):
        channel = RpcChannel(f"127.0.0.1:{server.port}", name="closing")
        call = asyncio.create_task(channel.unary(make_stub(channel).Echo, b"", timeout_s=20.0))
        await eventually(lambda: echo.requests)
        reading = asyncio.create_task(_all(channel.stream(make_stub(channel).Count, b"2", timeout_s=20.0)))
        await eventually(lambda: len(echo.requests) == 2)
        await channel.close()
        for each in (call, reading):
            with pytest.raises(UnavailableError, match="closed"):
                await each
        with pytest.raises(UnavailableError, match="closed"):
            await channel.unary(make_stub(channel).Echo, b"", timeout_s=20.0)
        with pytest.raises(UnavailableError, match="closed"):
            await _all(channel.stream(make_stub(channel).Count, b"2", timeout_s=20.0))


async def test_a_cancelled_caller_stays_cancelled(echo: Any, make_stub: Any) -> None:
    echo.act = lambda _request: asyncio.sleep(30)
    async with served(echo.register) as (_, channel):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await channel.unary(make_stub(channel).Echo, b"", timeout_s=20.0)


async def test_calls_are_counted(echo: Any, make_stub: Any) -> None:
    echo.act = fails(None, NotFoundError("x"))
    ok = metric("grpc_client_requests_total", target="under-test", code="OK")
    missing = metric("grpc_client_requests_total", target="under-test", code="NOT_FOUND")
    async with served(echo.register) as (_, channel):
        await channel.unary(make_stub(channel).Echo, b"", timeout_s=5.0)
        with pytest.raises(NotFoundError):
            await channel.unary(make_stub(channel).Echo, b"", timeout_s=5.0)
    assert metric("grpc_client_requests_total", target="under-test", code="OK") == ok + 1
    assert metric("grpc_client_requests_total", target="under-test", code="NOT_FOUND") == missing + 1


async def test_messages_may_be_large(echo: Any, make_stub: Any) -> None:
    large = b"x" * 20_000_000
    async with served(echo.register) as (_, channel):
        assert await channel.unary(make_stub(channel).Echo, large, timeout_s=30.0) == large


async def test_too_large_a_message_is_refused(echo: Any, make_stub: Any) -> None:
    server = GrpcServer(host="127.0.0.1", port=0, service_names=[], register=echo.register, max_message_bytes=1000)
    async with server, RpcChannel(f"127.0.0.1:{server.port}", name="small") as channel:
        with pytest.raises(ResourceExhaustedError, match="small"):
            await channel.unary(make_stub(channel).Echo, b"x" * 2000, timeout_s=5.0)
