"""The outermost layer: request ids, keys, metrics, and a short way to the routes that need no path matching."""

import hmac
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Receive, Scope, Send

from hot_path_api.api.gate import Gate
from hot_path_api.api.problems import WriteFencedError, problem_of
from servicekit import metrics
from servicekit.errors import InvalidArgumentError, ServiceError, UnauthenticatedError
from servicekit.request_id import begin_request

_PROTECTED = "/api/"
_OPEN = "/api/docs"
_BEARER = b"bearer "
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_WRITTEN = ("/api/v1/items", "/api/v1/interactions", "/api/v1/interaction-types", "/api/v1/users")
"""Where other methods change something; elsewhere a POST is a question that is too long for a URL."""


class Edge:
    """Wraps the application.

    Args:
        app: Everything, with path matching.
        literal: The routes without parameters in their path, by method and path; they are run directly.
        keys: The tenant of each API key; None lets everybody in as `open_tenant`.
        open_tenant: The tenant of everybody when there are no keys.
        gate: Counts requests against limits; None where there are none.
        fence: Why writes are refused; None takes them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        literal: Mapping[tuple[str, str], Any],
        keys: Mapping[str, str] | None,
        open_tenant: str,
        gate: Gate | None = None,
        fence: WriteFencedError | None = None,
    ) -> None:
        self._fence = fence
        self._app = app
        self._gate = gate
        self._literal = literal
        self._keys = None if keys is None else [(key.encode(), tenant) for key, tenant in keys.items()]
        self._open_tenant = open_tenant
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._latencies: dict[tuple[str, str], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; anything else than HTTP goes through untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path, method = scope["path"], scope["method"]
        given_id, key = _identity(scope["headers"])
        request_id = scope["request_id"] = begin_request(given_id)
        guarded = path.startswith(_PROTECTED) and not path.startswith(_OPEN)
        tenant = self._tenant(key) if guarded else self._open_tenant
        refusal: ServiceError | None = None
        if tenant is None:
            refusal = UnauthenticatedError("send the API key as X-API-Key or as Authorization: Bearer")
        elif not _is_text(scope["raw_path"]):
            refusal = InvalidArgumentError("the path is no UTF-8 text", field="path")
        elif self._fence is not None and method not in _READS and path.startswith(_WRITTEN):
            refusal = self._fence
        if refusal is not None:
            answer = problem_of(refusal, request_id=request_id)
            scope["status"] = answer.status
            await answer.send(send, request_id=request_id)
        else:
            scope["tenant"] = tenant
            if guarded and self._gate is not None:
                admitted = await self._gate.admit(scope, send)
                if admitted is None:
                    self._count(scope, method, time.perf_counter() - started)
                    return
                send = admitted
            route = self._literal.get((method, path))
            if route is not None:
                scope["route"] = route
                await route.app(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        self._count(scope, method, time.perf_counter() - started)

    def _tenant(self, key: bytes) -> str | None:
        if self._keys is None:
            return self._open_tenant
        found = None
        for known, tenant in self._keys:
            if hmac.compare_digest(known, key):
                found = tenant
        return found

    def _count(self, scope: Scope, method: str, seconds: float) -> None:
        route = scope.get("route")
        template: str = getattr(route, "path", "other")
        status: int = scope.get("status", 200)
        known = template if method in _METHODS else "other"
        label = method if method in _METHODS else "other"
        counter = self._counters.get((label, known, status))
        if counter is None:
            counter = metrics.HTTP_REQUESTS.labels(label, known, str(status))
            self._counters[label, known, status] = counter
        counter.inc()
        latency = self._latencies.get((label, known))
        if latency is None:
            latency = self._latencies[label, known] = metrics.HTTP_LATENCY.labels(label, known)
        latency.observe(seconds)


_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})


def _is_text(raw_path: bytes) -> bool:
    """Tell whether a path is UTF-8 once it is unquoted; the server puts replacement characters where it is not."""
    if b"%" not in raw_path:
        return True
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _identity(headers: list[tuple[bytes, bytes]]) -> tuple[str, bytes]:
    """Give the client's request id and the key, empty where there is none."""
    request_id, key = "", b""
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"x-api-key":
            key = value
        elif name == b"authorization" and not key and value[: len(_BEARER)].lower() == _BEARER:
            key = value[len(_BEARER) :].strip()
    return request_id, key
