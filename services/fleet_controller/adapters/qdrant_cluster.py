"""The VectorCluster of Qdrant, over its REST API (distributed mode)."""

from typing import Any

import httpx

from fleet_controller.adapters.http import ask
from fleet_controller.domain.shards import ClusterState, Move, ShardReplica

_ACTIVE = "Active"


class QdrantCluster:
    """Sees the cluster through any of its peers."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def state(self) -> ClusterState:
        """Read peers, collections and shards."""
        peers = frozenset(int(peer) for peer in (await self._get("/cluster"))["peers"])
        replicas: list[ShardReplica] = []
        transfers = 0
        for collection in (await self._get("/collections"))["collections"]:
            name = collection["name"]
            found = await self._get(f"/collections/{name}/cluster")
            transfers += len(found["shard_transfers"])
            replicas += [_replica(name, shard, found["peer_id"]) for shard in found["local_shards"]]
            replicas += [_replica(name, shard, shard["peer_id"]) for shard in found["remote_shards"]]
        return ClusterState(peers, sorted(replicas), transfers)

    async def begin(self, move: Move) -> None:
        """Ask for it."""
        operation = {
            "move_shard": {
                "shard_id": move.shard_id,
                "from_peer_id": move.from_peer_id,
                "to_peer_id": move.to_peer_id,
            }
        }
        await ask(self._client, "POST", f"/collections/{move.collection}/cluster", body=operation)

    async def _get(self, path: str) -> Any:
        return (await ask(self._client, "GET", path))["result"]


def _replica(collection: str, shard: Any, peer_id: int) -> ShardReplica:
    return ShardReplica(collection, shard["shard_id"], peer_id, shard["state"] == _ACTIVE)
