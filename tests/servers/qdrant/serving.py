"""The listening server: gRPC with a check of the key, and the one REST call that restores a snapshot."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import grpc
from qdrant_client import grpc as pb

from servers.qdrant.refusals import RefusedError
from servers.qdrant.servicers import Collections, Health, Points, Snapshots
from servers.qdrant.storage import Storage

_HTTP_STATUS = {
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
_THREADS = 8


class _Door(grpc.ServerInterceptor):
    """Asks for the key, and answers what is refused by its status."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        sent = dict(details.invocation_metadata).get("api-key", "")
        call = handler.unary_unary

        def guarded(request: Any, context: Any) -> Any:
            if self._api_key and sent != self._api_key:
                context.abort(
                    grpc.StatusCode.UNAUTHENTICATED, "Must provide an API key or an Authorization bearer token"
                )
            try:
                return call(request, context)
            except RefusedError as error:
                context.abort(error.status, str(error))

        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


class WireServer:
    """Serves a folder from `start` to `stop`; `port` and `rest_port` are known then."""

    def __init__(self, data: Path, *, host: str, port: int, rest_port: int, api_key: str) -> None:
        self._storage = Storage(data)
        self._api_key = api_key
        self._threads = ThreadPoolExecutor(_THREADS)
        self._server = grpc.server(
            self._threads,
            interceptors=[_Door(api_key)],
            options=(
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ),
        )
        added: tuple[tuple[Any, Any], ...] = (  # the functions have no types
            (pb.add_PointsServicer_to_server, Points(self._storage)),
            (pb.add_CollectionsServicer_to_server, Collections(self._storage)),
            (pb.add_SnapshotsServicer_to_server, Snapshots(self._storage, now_ms=lambda: time.time_ns() // 1_000_000)),
            (pb.add_QdrantServicer_to_server, Health()),
        )
        for add, servicer in added:
            add(servicer, self._server)
        self.port = self._server.add_insecure_port(f"{host}:{port}")
        self._rest = ThreadingHTTPServer((host, rest_port), _handler(self._storage, api_key))
        self._rest_thread = threading.Thread(target=self._rest.serve_forever, daemon=True)
        self.rest_port = int(self._rest.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        self._rest_thread.start()

    def stop(self) -> None:
        """Finish what is being answered, and close."""
        self._server.stop(1.0).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._threads.shutdown()
        self._storage.close()


def _handler(storage: Storage, api_key: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """PUT /collections/NAME/snapshots/recover with the location of a snapshot of this server."""

        def do_PUT(self) -> None:
            parts = urlsplit(self.path).path.split("/")
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if api_key and self.headers["api-key"] != api_key:
                self._answer(401, {"status": {"error": "Must provide an API key"}})
                return
            if len(parts) != 5 or parts[1] != "collections" or parts[3:] != ["snapshots", "recover"]:
                self._answer(404, {"status": {"error": "no such path"}})
                return
            try:
                # Of ".../collections/NAME/snapshots/SNAPSHOT": what is on this server is not fetched over the wire.
                *_, source, _, snapshot = map(unquote, urlsplit(body["location"]).path.split("/"))
                storage.restore(unquote(parts[2]), storage.snapshot(source, snapshot))
            except RefusedError as error:
                self._answer(_HTTP_STATUS[error.status], {"status": {"error": str(error)}})
                return
            self._answer(200, {"result": True, "status": "ok", "time": 0.0})

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            packed = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)

    return Handler
