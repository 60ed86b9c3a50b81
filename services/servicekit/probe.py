"""Asks a server whether it serves: `python -m servicekit.probe HOST:PORT [SERVICE]` or `http://…` ends with 0 or 1."""

import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.rpc.tls import client_credentials
from servicekit.settings import ServiceSettings

TIMEOUT_S = 2.0
USAGE = "usage: python -m servicekit.probe HOST:PORT [SERVICE] | http://HOST:PORT/PATH\n"
_HTTP = "http://"
_HTTP_OK = 200


def main(arguments: Sequence[str]) -> int:
    """Give 0 when the server serves, 1 when it does not or cannot be reached, 2 for a wrong command line.

    It serves when it says SERVING by gRPC, or answers 200 by HTTP.
    """
    if len(arguments) not in {1, 2} or (len(arguments) == 2 and arguments[0].startswith(_HTTP)):
        sys.stderr.write(USAGE)
        return 2
    if arguments[0].startswith(_HTTP):
        return _ask_http(arguments[0])
    return _ask_grpc(arguments)


def _ask_grpc(arguments: Sequence[str]) -> int:
    request = health_pb2.HealthCheckRequest(service="".join(arguments[1:]))
    with _connect(arguments[0]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]  # the stubs lack it
                request, timeout=TIMEOUT_S
            )
        except grpc.RpcError as error:
            sys.stderr.write(f"{arguments[0]}: {error}\n")
            return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _ask_http(url: str) -> int:
    """Ask past any proxy: what is asked runs beside the one who asks."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1
    finally:
        connection.close()
    if status != _HTTP_OK:
        sys.stderr.write(f"{url}: status {status}\n")
        return 1
    return 0


def _connect(target: str) -> grpc.Channel:
    """Connect as the service's own settings say: in the clear, or with the service's certificate."""
    tls = ServiceSettings().tls
    options = (("grpc.enable_http_proxy", 0),)
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, client_credentials(tls), options=options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
