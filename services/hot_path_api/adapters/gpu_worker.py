"""gpu_worker over gRPC: text encoding in micro-batches."""

from collections.abc import Sequence

from recommendation.gpu_worker.v1 import gpu_worker_pb2 as pb
from recommendation.gpu_worker.v1 import gpu_worker_pb2_grpc as rpc
from servicekit.arrays import Floats, unpack_floats
from servicekit.batching import MicroBatcher
from servicekit.errors import InternalError
from servicekit.rpc.client import RpcChannel

_READ_S = 2.0


class GpuWorkerClient:
    """The Encoder of gpu_worker."""

    def __init__(self, rpc_channel: RpcChannel) -> None:
        self._rpc = rpc_channel
        self._stub = rpc.GpuWorkerServiceStub(rpc_channel.channel)
        self._texts: MicroBatcher[str, Floats] = MicroBatcher(self._encode_batch, name="gpu_worker.texts")

    async def close(self) -> None:
        """Finish what was taken; the channel belongs to whoever made it."""
        await self._texts.close()

    async def encode(self, text: str, *, timeout_s: float) -> Floats:
        """Turn a text into a vector."""
        return await self._texts.submit(text, timeout_s=timeout_s)

    async def _encode_batch(self, texts: list[str]) -> Sequence[Floats]:
        request = pb.EncodeTextsRequest(texts=texts)
        response = await self._rpc.unary(self._stub.EncodeTexts, request, timeout_s=_READ_S, idempotent=True)
        vectors = unpack_floats(response.vectors, field="vectors")
        if len(vectors) != len(texts) * response.dimensions:
            raise InternalError(f"gpu_worker answered {len(vectors)} numbers for {len(texts)} texts")
        return list(vectors.reshape(len(texts), response.dimensions))
