"""What happens around every call that a server answers: request id, deadline, errors, metrics; once, in one wrapper."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from inspect import isawaitable
from typing import Any

import grpc
import grpc.aio
from prometheus_client import Counter

from servicekit import metrics
from servicekit.deadline import begin_deadline
from servicekit.errors import DeadlineExceededError, InternalError, ServiceError
from servicekit.logs import get_logger
from servicekit.request_id import METADATA_KEY, begin_request
from servicekit.rpc.errors import details_of, status_of, trailers_of

# Kept back from the caller's deadline, so that the answer who was late still reaches it.
MARGIN_S = 0.005
# With less than this left nothing useful can be done.
LEAST_S = 0.002


class HandlerCollector:
    """Stands in for the server while services are registered, and wraps what they register.

    An interceptor would do the same at 15 microseconds a call; this costs nothing once the server runs.
    """

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take the handlers of one service, as the generated code gives them."""
        self.handlers.extend(_WrappedHandler(each) for each in handlers)

    def add_registered_method_handlers(self, service_name: str, handlers: object) -> None:
        """Ignore what grpc.aio ignores too: the generated code gives the same handlers a second time."""


class _WrappedHandler(grpc.GenericRpcHandler):
    """Gives the wrapped handler of each method that another handler knows."""

    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Give the handler, None for a method of another service.

        gRPC asks within the task of the call and has read the metadata for it: reading it again would cost more than
        all that we do, so the request id is taken here.
        """
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = self._inner.service(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = _wrap(method, handler)
        begin_request(_request_id(handler_call_details.invocation_metadata))
        return wrapped


def _wrap(method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
    call = _Call(method)
    inner: Any = handler
    if handler.response_streaming:
        behaviour: Any = call.streaming(inner.stream_stream if handler.request_streaming else inner.unary_stream)
        make: Any = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
    else:
        behaviour = call.unary(inner.stream_unary if handler.request_streaming else inner.unary_unary)
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
    wrapped: grpc.RpcMethodHandler[Any, Any] = make(
        behaviour, handler.request_deserializer, handler.response_serializer
    )
    return wrapped


class _Call:
    """The wrapper of one method, with its metrics looked up beforehand."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._service, _, self._name = method.removeprefix("/").partition("/")
        self._latency = metrics.GRPC_SERVER_LATENCY.labels(self._service, self._name)
        self._counters: dict[grpc.StatusCode, Counter] = {}
        self._answered = metrics.GRPC_SERVER_REQUESTS.labels(self._service, self._name, "OK")
        self._log = get_logger(__name__)

    def unary(self, handle: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                _begin_deadline(context)
                response = await handle(request, context)
            except (Exception, asyncio.CancelledError) as error:
                self._latency.observe(time.perf_counter() - started)
                await self._fail(error, context)
                raise
            self._latency.observe(time.perf_counter() - started)
            self._answered.inc()
            return response

        return answer

    def streaming(self, handle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                _begin_deadline(context)
                responses = handle(request, context)
                if isawaitable(responses):  # it writes to the context itself
                    await responses
                else:
                    async with aclosing(responses):
                        async for response in responses:
                            yield response
            except (Exception, asyncio.CancelledError, GeneratorExit) as error:
                self._latency.observe(time.perf_counter() - started)
                await self._fail(error, context)
                raise
            self._latency.observe(time.perf_counter() - started)
            self._answered.inc()

        return answer

    async def _fail(self, error: BaseException, context: Any) -> None:
        """Count the failure and abort the call with it; returns only for those that gRPC ends itself."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._count(grpc.StatusCode.CANCELLED)
            return
        if isinstance(error, grpc.aio.AbortError):  # gRPC's own servicers set their status themselves
            self._count(context.code())
            return
        if isinstance(error, ServiceError):
            told = error
            if isinstance(error, InternalError):
                self._log.error("call failed", method=self._method, error=error.message, exc_info=error)
        else:
            told = InternalError(f"{self._method} failed; its logs say why")
            self._log.error("call failed unexpectedly", method=self._method, exc_info=error)
        status = status_of(told)
        self._count(status)
        await context.abort(status, details_of(told), trailers_of(told))

    def _count(self, status: grpc.StatusCode) -> None:
        counter = self._counters.get(status)
        if counter is None:
            counter = metrics.GRPC_SERVER_REQUESTS.labels(self._service, self._name, status.name)
            self._counters[status] = counter
        counter.inc()


def _request_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    for key, value in metadata or ():
        if key == METADATA_KEY:
            return str(value)
    return ""


def _begin_deadline(context: Any) -> None:
    """Set the deadline of the task, which gRPC makes anew for each call."""
    left = context.time_remaining()
    if left is not None:
        if left - MARGIN_S < LEAST_S:
            raise DeadlineExceededError(f"the call arrived with {left * 1000:.1f} ms left, too little to begin")
        begin_deadline(left - MARGIN_S)
