"""The calls to a Qdrant server: each within its deadline, watched by a circuit breaker, failing with our errors."""

import asyncio
import random
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio
from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as pb
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from servicekit.deadline import remaining_s
from servicekit.errors import AlreadyExistsError, CircuitOpenError, InvalidArgumentError, UnavailableError
from servicekit.logs import get_logger
from servicekit.rpc.breaker import CircuitBreaker, CircuitState
from servicekit.tasks import is_being_cancelled
from vector_search.adapters.qdrant_errors import NOT_ITS_PART, qdrant_errors
from vector_search.domain.patience import patience_s

_DEFAULT_PORT = 6334
_MARGIN_S = 0.01  # kept back, so that whoever asked can still answer without us
_LEAST_S = 0.002
_FAIR_S = 0.02  # who was given less and is late is not to blame
_PATIENT_MARGIN_S = 0.5  # the same for those with patience, whose callers are told what to do about it
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LONGEST_CALL_S = 60.0  # of what is tried again with more time

_log = get_logger(__name__)

T = TypeVar("T")


def connect(url: str, *, api_key: str, rest_port: int, timeout_s: float) -> AsyncQdrantClient:
    """Give a client for `qdrant://HOST:PORT`, or `qdrants://HOST:PORT` with TLS; it connects when it is used.

    Raises:
        InvalidArgumentError: The URL is of another kind.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"qdrant", "qdrants"} or not parts.hostname or parts.path not in {"", "/"}:
        raise InvalidArgumentError(f"vector_store_url {url!r} is not qdrant://HOST:PORT", field="vector_store_url")
    with warnings.catch_warnings():
        # Whether a key travels in the clear was decided when the URL was written.
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection", category=UserWarning)
        return AsyncQdrantClient(
            host=parts.hostname,
            port=rest_port,
            grpc_port=parts.port or _DEFAULT_PORT,
            prefer_grpc=True,
            https=parts.scheme == "qdrants",
            api_key=api_key or None,
            # The client counts in whole seconds and for all calls alike; how long each may take is kept here.
            timeout=max(1, round(timeout_s), round(_LONGEST_CALL_S)),
            check_compatibility=False,
            grpc_options={
                "grpc.keepalive_time_ms": 20_000,
                "grpc.keepalive_timeout_ms": 5_000,
                # A killed server is back within a second or two, and must be found then.
                "grpc.initial_reconnect_backoff_ms": 100,
                "grpc.min_reconnect_backoff_ms": 100,
                "grpc.max_reconnect_backoff_ms": 1_000,
                "grpc.enable_http_proxy": 0,
            },
        )


class _PerRequest(Protocol):
    """The calls that requests of users wait for, in the messages of the wire."""

    async def query(self, request: pb.QueryBatchPoints, timeout_s: float) -> Sequence[pb.BatchResult]:
        """Search a batch."""
        ...

    async def get(self, request: pb.GetPoints, timeout_s: float) -> Sequence[pb.RetrievedPoint]:
        """Look points up."""
        ...

    async def count(self, request: pb.CountPoints, timeout_s: float) -> int:
        """Count points."""
        ...


class _RawCalls:
    """By the client's own stubs: its models would cost a user's request several milliseconds."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client

    async def query(self, request: pb.QueryBatchPoints, timeout_s: float) -> Sequence[pb.BatchResult]:
        answer = await self._client.grpc_points.QueryBatch(request, timeout=timeout_s)
        found: Sequence[pb.BatchResult] = answer.result
        return found

    async def get(self, request: pb.GetPoints, timeout_s: float) -> Sequence[pb.RetrievedPoint]:
        answer = await self._client.grpc_points.Get(request, timeout=timeout_s)
        found: Sequence[pb.RetrievedPoint] = answer.result
        return found

    async def count(self, request: pb.CountPoints, timeout_s: float) -> int:
        answer = await self._client.grpc_points.Count(request, timeout=timeout_s)
        return int(answer.result.count)


class _ModelCalls:
    """By the client's methods, where there is no wire: in its memory."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client

    async def query(self, request: pb.QueryBatchPoints, timeout_s: float) -> Sequence[pb.BatchResult]:
        del timeout_s  # nothing is waited for
        queries = [GrpcToRest.convert_query_points(each) for each in request.query_points]
        answers = await self._client.query_batch_points(request.collection_name, queries)
        return [pb.BatchResult(result=map(RestToGrpc.convert_scored_point, each.points)) for each in answers]

    async def get(self, request: pb.GetPoints, timeout_s: float) -> Sequence[pb.RetrievedPoint]:
        del timeout_s  # nothing is waited for
        found = await self._client.retrieve(
            request.collection_name,
            [each.num for each in request.ids],
            with_payload=GrpcToRest.convert_with_payload_selector(request.with_payload),
            with_vectors=request.with_vectors.enable,
        )
        return [RestToGrpc.convert_retrieved_point(each) for each in found]

    async def count(self, request: pb.CountPoints, timeout_s: float) -> int:
        del timeout_s  # nothing is waited for
        chosen = GrpcToRest.convert_filter(request.filter)
        return (await self._client.count(request.collection_name, chosen, exact=request.exact)).count


class QdrantConnection:
    """One client of one server; used from one event loop, closed once.

    A call fails at once when the server does not do its part, but see `patience`.

    Args:
        client: Connected by `connect`, or one that keeps everything in memory.
        timeout_s: The longest that a call may take, unless its caller gives it more.
    """

    def __init__(self, client: AsyncQdrantClient, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._breaker = CircuitBreaker("qdrant")
        self._per_request: _PerRequest
        try:
            _ = client.grpc_points
            self._per_request = _RawCalls(client)
        except NotImplementedError:
            self._per_request = _ModelCalls(client)

    async def call(
        self, what: str, work: Callable[[AsyncQdrantClient], Awaitable[T]], *, timeout_s: float | None = None
    ) -> T:
        """Make one call of the client; `timeout_s` instead of the usual one for what may take long.

        Raises:
            ServiceError: As the tables say; UnavailableError when it is late or the circuit is open.
        """

        async def within(seconds: float) -> T:
            async with asyncio.timeout(seconds):
                return await work(self._client)

        return await self._watched(what, within, timeout_s or self._timeout_s)

    async def query(self, what: str, request: pb.QueryBatchPoints) -> Sequence[pb.BatchResult]:
        """Search a batch, as `call`."""
        return await self._watched(what, lambda seconds: self._per_request.query(request, seconds), self._timeout_s)

    async def get(self, what: str, request: pb.GetPoints) -> Sequence[pb.RetrievedPoint]:
        """Look points up, as `call`."""
        return await self._watched(what, lambda seconds: self._per_request.get(request, seconds), self._timeout_s)

    async def count(self, what: str, request: pb.CountPoints) -> int:
        """Count points, as `call`."""
        return await self._watched(what, lambda seconds: self._per_request.count(request, seconds), self._timeout_s)

    async def collections(self) -> frozenset[str]:
        """Give the names of all collections on the server, whosever they are."""
        found = await self.call("listing collections", lambda client: client.get_collections())
        return frozenset(each.name for each in found.collections)

    async def make_collection(self, name: str, *, timeout_s: float, **config: Any) -> bool:
        """Make a collection as the client's `create_collection` does; False when there is one of that name."""
        try:
            await self.call(
                "making a collection",
                lambda client: client.create_collection(name, timeout=int(timeout_s), **config),
                timeout_s=timeout_s,
            )
        except (AlreadyExistsError, InvalidArgumentError, UnavailableError):
            # Another process may have been quicker; an older server calls that a wrong argument.
            if name not in await self.collections():
                raise
            return False
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _watched(self, what: str, work: Callable[[float], Awaitable[T]], timeout_s: float) -> T:
        """Make a call; those with patience make it again after ever longer pauses, each time with more time."""
        if not patience_s():
            return await self._attempt(what, work, min(timeout_s, remaining_s() - _MARGIN_S))
        give_up = time.monotonic() + patience_s()
        failures = 0
        while True:
            # The one call that tries whether an open circuit may close keeps the requests of users waiting.
            is_probe = self._breaker.state is not CircuitState.CLOSED
            longer_s = timeout_s if is_probe else max(timeout_s, min(timeout_s * 2**failures, _LONGEST_CALL_S))
            try:
                return await self._attempt(what, work, min(longer_s, remaining_s() - _PATIENT_MARGIN_S))
            except UnavailableError as error:
                pause_s = min(_FIRST_PAUSE_S * 2**failures, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.5)
                left_s = min(give_up - time.monotonic(), remaining_s() - _PATIENT_MARGIN_S)
                if left_s - pause_s < _LEAST_S:
                    raise
                if not isinstance(error, CircuitOpenError):  # then nothing was sent
                    failures += 1
                    _log.warning("a call of Qdrant is made again", call=what, failures=failures, error=error.message)
            await asyncio.sleep(pause_s)

    async def _attempt(self, what: str, work: Callable[[float], Awaitable[T]], seconds: float) -> T:
        if seconds < _LEAST_S:
            raise UnavailableError(f"{what}: too little time was left to ask Qdrant")
        self._breaker.before_call()
        try:
            with qdrant_errors(what):
                done = await work(seconds)
        except BaseException as error:
            self._after_failure(error, seconds)
            if isinstance(error, asyncio.CancelledError) and not is_being_cancelled():
                raise UnavailableError(f"{what}: the connection to Qdrant was closed") from error
            raise
        self._breaker.succeeded()
        return done

    def _after_failure(self, error: BaseException, seconds: float) -> None:
        cause: Any = error.__cause__
        if isinstance(cause, TimeoutError):
            status: grpc.StatusCode | None = grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            status = cause.code() if isinstance(cause, grpc.aio.AioRpcError) else None
        if status is None or (status is grpc.StatusCode.DEADLINE_EXCEEDED and seconds < _FAIR_S):
            self._breaker.abandoned()
        elif status in NOT_ITS_PART:
            self._breaker.failed()
        else:
            self._breaker.succeeded()
