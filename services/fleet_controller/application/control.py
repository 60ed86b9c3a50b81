"""One run of each controller: read, decide, tell, and act unless it is dry."""

from collections.abc import Callable
from dataclasses import replace

from fleet_controller.domain.ports import GraphCluster, Measurements, ReplicaSet, VectorCluster
from fleet_controller.domain.replicas import ReplicaDecision, ReplicaRule, decide_replicas
from fleet_controller.domain.shards import MovesDecision, decide_moves

Tell = Callable[[str], None]


async def control_replicas(
    *,
    measurements: Measurements,
    replica_set: ReplicaSet,
    graph: GraphCluster,
    query: str,
    rule: ReplicaRule,
    dry_run: bool,
    tell: Tell,
) -> ReplicaDecision:
    """Bring the number of read replicas to what the latency asks for.

    Up: the processes first; a later run lets them in when they have started. Down: they are emptied first.
    """
    state = replace(await replica_set.state(), latency_ms=await measurements.value(query))
    decision = decide_replicas(state, rule)
    verb = "would be" if dry_run else "are to be"
    tell(f"{state.replicas} read replicas, {state.ready} ready; {verb} {decision.replicas}: {decision.reason}")
    if dry_run:
        return decision
    if decision.replicas < state.replicas:
        await graph.set_secondaries(decision.replicas)
        await graph.release(decision.replicas)
    if decision.replicas != state.replicas:
        await replica_set.scale(decision.replicas)
    if decision.replicas >= state.replicas:
        admitted = await graph.admit_new()
        if admitted:
            tell(f"{admitted} new servers were let in")
        await graph.set_secondaries(min(state.ready, decision.replicas))
    return decision


async def control_shards(
    *, cluster: VectorCluster, threshold: float, most: int, dry_run: bool, tell: Tell
) -> MovesDecision:
    """Begin the moves that even Qdrant's peers out."""
    decision = decide_moves(await cluster.state(), threshold=threshold, most=most)
    tell(decision.reason)
    for move in decision.moves:
        verb = "would move" if dry_run else "moving"
        tell(f"{verb} shard {move.shard_id} of {move.collection} from peer {move.from_peer_id} to {move.to_peer_id}")
        if not dry_run:
            await cluster.begin(move)
    return decision
