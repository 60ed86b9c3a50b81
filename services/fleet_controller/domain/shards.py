"""Where Qdrant's shards should lie: moves from the fullest peer to the emptiest, until all are nearly even."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class ShardReplica:
    """One copy of a shard on a peer."""

    collection: str
    shard_id: int
    peer_id: int
    active: bool = True


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What is seen: the peers, all copies, and how many moves are under way."""

    peers: frozenset[int]
    replicas: Sequence[ShardReplica]
    transfers: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A copy that goes to another peer."""

    collection: str
    shard_id: int
    from_peer_id: int
    to_peer_id: int


@dataclass(frozen=True, slots=True)
class MovesDecision:
    """Which copies go where, and why."""

    moves: tuple[Move, ...]
    reason: str


def imbalance_of(state: ClusterState) -> float:
    """Give by what part of the mean the fullest peer exceeds it: .2 is a fifth too many; 0 for an empty cluster."""
    counts = _counts(state)
    mean = sum(counts.values()) / len(counts) if counts else 0.0
    return max(counts.values()) / mean - 1.0 if mean else 0.0


def decide_moves(state: ClusterState, *, threshold: float, most: int) -> MovesDecision:
    """Decide on up to `most` moves; none while anything is under way or not whole, since moving would make it worse."""
    if state.transfers:
        return MovesDecision((), f"{state.transfers} shards are being moved")
    broken = [each for each in state.replicas if not each.active]
    if broken:
        first = min(broken)
        return MovesDecision((), f"shard {first.shard_id} of {first.collection} on peer {first.peer_id} is not active")
    before = imbalance_of(state)
    told = f"the fullest peer has {before:.0%} more than the mean"
    if before <= threshold:
        return MovesDecision((), f"{told}, not over {threshold:.0%}")
    moves: list[Move] = []
    replicas = set(state.replicas)
    now = state
    while len(moves) < most and imbalance_of(now) > threshold:
        move = _best_move(now)
        if move is None:
            break
        moves.append(move)
        replicas -= {ShardReplica(move.collection, move.shard_id, move.from_peer_id)}
        replicas |= {ShardReplica(move.collection, move.shard_id, move.to_peer_id)}
        now = ClusterState(state.peers, sorted(replicas))
    if not moves:
        return MovesDecision((), f"{told}, and no move would help")
    return MovesDecision(tuple(moves), f"{told}, over {threshold:.0%}")


def _counts(state: ClusterState) -> Counter[int]:
    counts = Counter(dict.fromkeys(state.peers, 0))
    counts.update(each.peer_id for each in state.replicas)
    return counts


def _best_move(state: ClusterState) -> Move | None:
    """Give the first copy, by name, that the fullest peer can hand to an emptier one which has none of its shard."""
    counts = _counts(state)
    holders: dict[tuple[str, int], set[int]] = {}
    for each in state.replicas:
        holders.setdefault((each.collection, each.shard_id), set()).add(each.peer_id)
    fullest = max(state.peers, key=lambda peer: (counts[peer], -peer))
    for emptiest in sorted(state.peers, key=lambda peer: (counts[peer], peer)):
        if counts[fullest] - counts[emptiest] < 2:
            return None
        for each in sorted(state.replicas):
            if each.peer_id == fullest and emptiest not in holders[each.collection, each.shard_id]:
                return Move(each.collection, each.shard_id, fullest, emptiest)
    return None
