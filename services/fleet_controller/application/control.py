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

    Up: the processes first; a later run lets them in when they have started. Down: they are emptied first, which goes
    on from run to run. Who has begun to leave cannot be kept, so that is finished first, whatever the latency says.
    """
    state = replace(await replica_set.state(), latency_ms=await measurements.value(query))
    decision = decide_replicas(state, rule)
    verb = "would be" if dry_run else "are to be"
    tell(f"{state.replicas} read replicas, {state.ready} ready; {verb} {decision.replicas}: {decision.reason}")
    if dry_run:
        return decision
    staying = _staying(state.replicas, await graph.leaving())
    wanted = decision.replicas if staying == state.replicas else min(staying, decision.replicas)
    if wanted < state.replicas:
        await graph.set_secondaries(wanted)
        if await graph.release(wanted):
            await replica_set.scale(wanted)
            tell(f"there are {wanted} now")
        else:
            tell(f"waiting until all from number {wanted} on are empty")
        return replace(decision, replicas=wanted)
    if wanted > state.replicas:
        await replica_set.scale(wanted)
    admitted = await graph.admit_new()
    if admitted:
        tell(f"{admitted} new servers were let in")
    await graph.set_secondaries(min(state.ready, wanted))
    return decision


def _staying(replicas: int, leaving: frozenset[int]) -> int:
    """Give how many stay: a StatefulSet stops the highest numbers, so only those at the end can go."""
    while replicas - 1 in leaving:
        replicas -= 1
    return replicas


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
