"""What the server does around each call, and how it comes and goes."""

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from servicekit.deadline import deadline_after
from servicekit.errors import DeadlineExceededError, FailedPreconditionError, InternalError, NotFoundError
from servicekit.request_id import begin_request
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer
from servicekit.testing import eventually, free_port, served

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def requests_counted(service: str, method: str, code: str) -> float:
    labels = {"service": service, "method": method, "code": code}
    return REGISTRY.get_sample_value("grpc_server_requests_total", labels) or 0.0


async def health_of(channel: RpcChannel, name: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5.0)
    return int(answer.status)


async def test_the_request_id_goes_along(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        begin_request("req-7")
        await channel.unary(make_stub(channel).Echo, b"", timeout_s=5.0)
        async for _ in channel.stream(make_stub(channel).Count, b"1", timeout_s=5.0):
            pass
    assert echo.request_ids == ["req-7", "req-7"]


async def test_a_call_without_an_id_gets_one(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        await asyncio.gather(*(channel.unary(make_stub(channel).Echo, b"", timeout_s=5.0) for _ in range(20)))
    assert len(set(echo.request_ids)) == 20
    assert "" not in echo.request_ids


async def test_the_deadline_goes_along_and_shrinks(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        await channel.unary(make_stub(channel).Echo, b"", timeout_s=2.0)
        with deadline_after(0.5):
            await channel.unary(make_stub(channel).Echo, b"", timeout_s=2.0)
    # gRPC rounds a timeout up, by a hundredth at most.
    assert 1.5 < echo.deadlines[0] < 2.015
    assert 0.1 < echo.deadlines[1] < 0.5


async def test_a_call_without_a_deadline_has_all_the_time(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        assert await make_stub(channel).Echo(b"x") == b"x"
    assert echo.deadlines == [float("inf")]


async def test_a_call_that_comes_too_late_is_refused(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        with pytest.raises(DeadlineExceededError):
            await channel.unary(make_stub(channel).Echo, b"", timeout_s=0.006)
    assert echo.requests == []


async def test_an_unexpected_error_is_logged_and_not_told(echo: Any, make_stub: Any) -> None:
    def fail(_request: bytes) -> None:
        raise KeyError("secret")

    echo.act = fail
    with capture_logs() as logs:
        async with served(echo.register) as (_, channel):
            with pytest.raises(InternalError) as raised:
                await channel.unary(make_stub(channel).Echo, b"", timeout_s=5.0)
            with pytest.raises(InternalError):
                _ = [each async for each in channel.stream(make_stub(channel).Count, b"3", timeout_s=5.0)]

    assert "secret" not in raised.value.message
    failures = [line for line in logs if line["event"] == "call failed unexpectedly"]
    assert len(failures) == 2
    assert isinstance(failures[0]["exc_info"], KeyError)


async def test_all_four_kinds_of_calls_work(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        stub = make_stub(channel)
        assert await stub.Echo(b"a") == b"a"
        assert [each async for each in stub.Count(b"3")] == [b"0", b"1", b"2"]
        assert await stub.Join(iter([b"a", b"b"])) == b"ab"
        assert [each async for each in stub.Repeat(iter([b"a", b"b"]))] == [b"a", b"b"]


async def test_an_unknown_method_is_an_error(echo: Any, make_stub: Any) -> None:
    async with served(echo.register) as (_, channel):
        with pytest.raises(InternalError, match="Method not found"):
            await channel.unary(make_stub(channel).Absent, b"", timeout_s=5.0)


async def test_calls_are_counted_by_code(echo: Any, make_stub: Any, service_name: str) -> None:
    def fail_on_x(request: bytes) -> None:
        if request == b"x":
            raise NotFoundError("no x")

    echo.act = fail_on_x
    before_ok = requests_counted(service_name, "Echo", "OK")
    before_missing = requests_counted(service_name, "Echo", "NOT_FOUND")
    async with served(echo.register) as (_, channel):
        for request in (b"a", b"b", b"x"):
            try:
                await channel.unary(make_stub(channel).Echo, request, timeout_s=5.0)
            except NotFoundError:
                assert request == b"x"
    assert requests_counted(service_name, "Echo", "OK") == before_ok + 2
    assert requests_counted(service_name, "Echo", "NOT_FOUND") == before_missing + 1
    latency = REGISTRY.get_sample_value(
        "grpc_server_latency_seconds_count", {"service": service_name, "method": "Echo"}
    )
    assert latency is not None
    assert latency >= 3


async def test_a_caller_who_leaves_stops_the_work(echo: Any, make_stub: Any, service_name: str) -> None:
    echo.act = lambda _request: asyncio.sleep(30)
    before = requests_counted(service_name, "Echo", "CANCELLED")
    async with served(echo.register) as (_, channel):
        call = asyncio.create_task(channel.unary(make_stub(channel).Echo, b"", timeout_s=20.0))
        await eventually(lambda: echo.requests)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: echo.cancelled == 1)
    assert requests_counted(service_name, "Echo", "CANCELLED") == before + 1


async def test_a_reader_who_leaves_closes_the_stream(echo: Any, make_stub: Any) -> None:
    echo.act = lambda _request: asyncio.sleep(0.001)
    async with served(echo.register) as (_, channel):
        stream: Any = channel.stream(make_stub(channel).Count, b"1000000", timeout_s=20.0)
        async for number in stream:
            if number == b"3":
                break
        await stream.aclose()
        await eventually(lambda: echo.closed_streams == 1)


async def test_health_says_what_was_set(echo: Any, service_name: str) -> None:
    server = GrpcServer(host="127.0.0.1", port=0, service_names=[service_name], register=echo.register)
    async with server, RpcChannel(f"127.0.0.1:{server.port}", name="t") as channel:
        for ready, status in ((None, NOT_SERVING), (True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            if ready is not None:
                server.set_serving(ready)
            assert await health_of(channel) == status
            assert await health_of(channel, service_name) == status
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health_of(channel, "nobody")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(echo: Any) -> None:
    async with served(echo.register) as (server, channel):
        stub: Any = health_pb2_grpc.HealthStub(channel.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=5.0)
        assert (await watch.read()).status == SERVING
        server.set_serving(False)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_services_can_be_listed(echo: Any, service_name: str) -> None:
    async with served(echo.register, [service_name]) as (_, channel):
        make_reflection_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        stub = make_reflection_stub(channel.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = [each async for each in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in answer.list_services_response.service}
    assert names == {service_name, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_stopping_lets_calls_finish_and_takes_no_new_ones(echo: Any, make_stub: Any, service_name: str) -> None:
    may_end = asyncio.Event()
    echo.act = lambda request: may_end.wait() if request == b"slow" else None
    async with served(echo.register, [service_name], shutdown_grace_s=10.0) as (server, channel):
        slow = asyncio.create_task(channel.unary(make_stub(channel).Echo, b"slow", timeout_s=20.0))
        await eventually(lambda: echo.requests)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.1)
        async with RpcChannel(f"127.0.0.1:{server.port}", name="late") as late:
            with pytest.raises(Exception, match=r"late"):
                await late.unary(make_stub(late).Echo, b"new", timeout_s=0.5)
        assert not stopping.done()
        may_end.set()
        assert await slow == b"slow"
        await stopping
    assert echo.requests == [b"slow"]


async def test_stopping_ends_after_the_grace(echo: Any, make_stub: Any) -> None:
    echo.act = lambda _request: asyncio.sleep(30)
    async with served(echo.register, shutdown_grace_s=0.2) as (server, channel):
        call = asyncio.create_task(channel.unary(make_stub(channel).Echo, b"", timeout_s=20.0))
        await eventually(lambda: echo.requests)
        started = time.monotonic()
        await server.stop()
        assert 0.1 < time.monotonic() - started < 5.0
        with pytest.raises(Exception, match="under-test"):
            await call


async def test_draining_says_so_under_the_empty_name_only(echo: Any, make_stub: Any, service_name: str) -> None:
    may_end = asyncio.Event()
    echo.act = lambda _request: may_end.wait()
    async with served(echo.register, [service_name], shutdown_grace_s=10.0) as (server, channel):
        stub: Any = health_pb2_grpc.HealthStub(channel.channel)
        readiness = stub.Watch(health_pb2.HealthCheckRequest(), timeout=1.0)
        liveness = stub.Watch(health_pb2.HealthCheckRequest(service=service_name), timeout=1.0)
        assert (await readiness.read()).status == SERVING
        assert (await liveness.read()).status == SERVING
        call = asyncio.create_task(channel.unary(make_stub(channel).Echo, b"", timeout_s=20.0))
        await eventually(lambda: echo.requests)
        stopping = asyncio.create_task(server.stop())
        assert (await readiness.read()).status == NOT_SERVING
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(liveness.read(), 0.2)
        may_end.set()
        await call
        await stopping


async def test_stopping_twice_is_harmless(echo: Any) -> None:
    async with served(echo.register) as (server, _):
        await server.stop()
        await server.stop()


async def test_a_taken_port_is_an_error(echo: Any) -> None:
    async with served(echo.register) as (server, _):
        second = GrpcServer(host="127.0.0.1", port=server.port, service_names=[], register=echo.register)
        with pytest.raises(FailedPreconditionError, match=str(server.port)):
            await second.start()
        await second.stop()


async def test_a_fixed_port_is_used(echo: Any) -> None:
    port = free_port()
    async with GrpcServer(host="127.0.0.1", port=port, service_names=[], register=echo.register) as server:
        assert server.port == port


async def test_health_needs_a_started_server(echo: Any) -> None:
    server = GrpcServer(host="127.0.0.1", port=0, service_names=[], register=echo.register)
    with pytest.raises(RuntimeError, match="start the server"):
        server.set_serving(True)
