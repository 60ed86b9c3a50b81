"""The gRPC health protocol of the other services."""

from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.errors import ServiceError
from servicekit.rpc.client import RpcChannel

_TIMEOUT_S = 1.0


class GrpcPeer:
    """A Peer behind a channel; the channel has no circuit breaker, since looking is how recovery is noticed."""

    def __init__(self, rpc_channel: RpcChannel) -> None:
        self._rpc = rpc_channel
        self._check = health_pb2_grpc.HealthStub(rpc_channel.channel).Check  # type: ignore[attr-defined]  # the stubs lack it

    async def is_serving(self) -> bool:
        """Ask for the health of the whole server."""
        try:
            answer = await self._rpc.unary(self._check, health_pb2.HealthCheckRequest(), timeout_s=_TIMEOUT_S)
        except ServiceError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
