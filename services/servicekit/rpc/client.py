"""A channel to one service: deadlines that shrink, retries where they are harmless, a circuit breaker, our errors."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import grpc
import grpc.aio
from prometheus_client import Counter

from servicekit import metrics
from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, UnavailableError
from servicekit.request_id import METADATA_KEY, current_request_id
from servicekit.rpc.breaker import CircuitBreaker
from servicekit.rpc.errors import error_from_rpc
from servicekit.rpc.server import MAX_MESSAGE_BYTES
from servicekit.rpc.tls import ReloadingChannel, TlsFiles
from servicekit.tasks import is_being_cancelled

# Kept back from the deadline of whoever calls, so that it can still say who was late.
MARGIN_S = 0.002
# With less than this left the call is not made.
LEAST_S = 0.002
# Who was given less than this and is late is not to blame.
FAIR_S = 0.02
MAX_RETRIES = 2
_BACKOFF_S = 0.02
_LOOK_EVERY_S = 1.0  # at the certificates

# The other side did not do its part; everything else is an answer, be it an unwelcome one.
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class RpcChannel:
    """The connection to one service; also an async context manager. Stubs are made on `channel`, calls by `unary`.

    Args:
        target: "host:port", or any name that gRPC resolves, or IPv4 addresses as "ip:port,ip:port"; several addresses
            are used in turn.
        name: The service's name in metrics and errors.
        breaker: Shared by all calls of this channel; None for callers that must always try.
        max_message_bytes: The largest message in either direction.
        tls: The certificate to show and the authority to trust; None speaks in the clear.
    """

    def __init__(
        self,
        target: str,
        *,
        name: str,
        breaker: CircuitBreaker | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: TlsFiles | None = None,
    ) -> None:
        self._name = name
        self._breaker = breaker
        self._latency = metrics.GRPC_CLIENT_LATENCY.labels(name)
        self._counters: dict[grpc.StatusCode, Counter] = {}
        address = f"ipv4:{target}" if "," in target else target
        options = _options(max_message_bytes)
        self._reloading: ReloadingChannel | None = None
        self._look_at = 0.0
        if tls is None:
            self.channel: grpc.aio.Channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._reloading = ReloadingChannel(
                tls, lambda credentials: grpc.aio.secure_channel(address, credentials, options=options)
            )
            self.channel = cast("grpc.aio.Channel", self._reloading)  # as far as stubs use one

    async def unary(
        self,
        stub_method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout_s: float,
        idempotent: bool = False,
    ) -> Response:
        """Make one call, within `timeout_s` and what is left of the current deadline.

        An idempotent call that finds the other side unavailable is tried up to twice more.

        Raises:
            ServiceError: What the other side raised, or UnavailableError, CircuitOpenError or DeadlineExceededError.
        """
        deadline = time.monotonic() + min(timeout_s, remaining_s() - MARGIN_S)
        tries_left = MAX_RETRIES if idempotent else 0
        while True:
            try:
                response: Response = await self._attempt(stub_method, request, deadline)
            except grpc.aio.AioRpcError as error:
                pause_s = _BACKOFF_S * 2 ** (MAX_RETRIES - tries_left) * random.uniform(0.5, 1.5)
                may_retry = tries_left and error.code() is grpc.StatusCode.UNAVAILABLE
                if not may_retry or deadline - time.monotonic() < pause_s + LEAST_S:
                    raise error_from_rpc(error, target=self._name) from error
            else:
                return response
            tries_left -= 1
            metrics.GRPC_CLIENT_RETRIES.labels(self._name).inc()
            await asyncio.sleep(pause_s)

    async def stream(
        self, stub_method: "grpc.aio.UnaryStreamMultiCallable[Request, Response]", request: Request, *, timeout_s: float
    ) -> AsyncIterator[Response]:
        """Make one call that is answered by a stream, all of it within `timeout_s` and the current deadline.

        Raises:
            ServiceError: What the other side raised, or UnavailableError, CircuitOpenError or DeadlineExceededError.
        """
        timeout_s = self._granted_s(time.monotonic() + min(timeout_s, remaining_s() - MARGIN_S))
        self._before_call()
        answered = ended = False
        call = None
        try:
            call = stub_method(request, timeout=timeout_s, metadata=_metadata())
            async for response in call:
                if not answered and self._breaker is not None:
                    self._breaker.succeeded()  # at once: nobody knows how long the reader takes
                answered = True
                yield response
            ended = True
            self._after_call(grpc.StatusCode.OK, timeout_s)
        except grpc.aio.AioRpcError as error:
            ended = True
            self._after_call(error.code(), timeout_s)
            raise error_from_rpc(error, target=self._name) from error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            raise self._closed() from error
        finally:
            if not ended:
                if call is not None:
                    call.cancel()
                if not answered:
                    self._abandoned()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the other side is connected.

        Raises:
            UnavailableError: It was not within `timeout_s` seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.channel.channel_ready()
        except TimeoutError as error:
            raise UnavailableError(f"{self._name} could not be reached within {timeout_s:g} s") from error

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _attempt(self, stub_method: Any, request: Any, deadline: float) -> Any:
        timeout_s = self._granted_s(deadline)
        self._before_call()
        started = time.perf_counter()
        try:
            response = await stub_method(request, timeout=timeout_s, metadata=_metadata())
        except grpc.aio.AioRpcError as error:
            self._latency.observe(time.perf_counter() - started)
            self._after_call(error.code(), timeout_s)
            raise
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            self._abandoned()
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            raise self._closed() from error
        except BaseException:
            self._abandoned()
            raise
        self._latency.observe(time.perf_counter() - started)
        self._after_call(grpc.StatusCode.OK, timeout_s)
        return response

    def _granted_s(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left < LEAST_S:
            raise DeadlineExceededError(f"too little time was left to call {self._name}")
        return left

    def _before_call(self) -> None:
        if self._reloading is not None and time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + _LOOK_EVERY_S
            self._reloading.renew_if_changed()
        if self._breaker is not None:
            self._breaker.before_call()

    def _after_call(self, status: grpc.StatusCode, granted_s: float) -> None:
        counter = self._counters.get(status)
        if counter is None:
            counter = self._counters[status] = metrics.GRPC_CLIENT_REQUESTS.labels(self._name, status.name)
        counter.inc()
        if self._breaker is None:
            return
        if status is grpc.StatusCode.DEADLINE_EXCEEDED and granted_s < FAIR_S:
            self._breaker.abandoned()
        elif status in _FAILURES:
            self._breaker.failed()
        else:
            self._breaker.succeeded()

    def _closed(self) -> UnavailableError:
        return UnavailableError(f"the channel to {self._name} is closed")

    def _abandoned(self) -> None:
        if self._breaker is not None:
            self._breaker.abandoned()


def _options(max_message_bytes: int) -> tuple[tuple[str, Any], ...]:
    return (
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A killed service is back within a second or two, and must be found then.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.enable_http_proxy", 0),
    )


def _metadata() -> tuple[tuple[str, str], ...] | None:
    request_id = current_request_id()
    return ((METADATA_KEY, request_id),) if request_id else None
