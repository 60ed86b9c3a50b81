"""Asks a gRPC server whether it serves: `python -m servicekit.probe HOST:PORT [SERVICE]` ends with 0 or 1."""

import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.rpc.tls import client_credentials
from servicekit.settings import ServiceSettings

TIMEOUT_S = 2.0
USAGE = "usage: python -m servicekit.probe HOST:PORT [SERVICE]\n"


def main(arguments: Sequence[str]) -> int:
    """Give 0 when the server says SERVING, 1 when it does not or cannot be reached, 2 for a wrong command line."""
    if len(arguments) not in {1, 2}:
        sys.stderr.write(USAGE)
        return 2
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


def _connect(target: str) -> grpc.Channel:
    """Connect as the service's own settings say: in the clear, or with the service's certificate."""
    tls = ServiceSettings().tls
    options = (("grpc.enable_http_proxy", 0),)
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, client_credentials(tls), options=options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
