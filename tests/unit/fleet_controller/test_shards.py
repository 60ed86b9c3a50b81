"""Shards move from full peers to empty ones, and only while that helps and nothing else is under way."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_controller.domain.shards import ClusterState, Move, ShardReplica, decide_moves, imbalance_of


def cluster(placement: dict[int, list[int]], **changes: int) -> ClusterState:
    """Give a cluster with a collection `c`: for each peer the shards it has."""
    replicas = [ShardReplica("c", shard, peer) for peer, shards in placement.items() for shard in shards]
    return ClusterState(frozenset(placement), sorted(replicas), **changes)


def test_an_even_cluster_is_left_alone() -> None:
    decision = decide_moves(cluster({1: [0, 1], 2: [2, 3], 3: [4, 5]}), threshold=0.2, most=5)
    assert decision.moves == ()
    assert decision.reason == "the fullest peer has 0% more than the mean, not over 20%"


def test_a_new_peer_gets_shards() -> None:
    state = cluster({1: [0, 1, 2, 3], 2: [4, 5, 6, 7], 3: []})
    assert imbalance_of(state) == pytest.approx(0.5)
    decision = decide_moves(state, threshold=0.2, most=5)
    assert decision.moves == (Move("c", 0, 1, 3), Move("c", 4, 2, 3))
    assert decide_moves(state, threshold=0.2, most=1).moves == (Move("c", 0, 1, 3),)


def test_two_copies_of_a_shard_never_meet() -> None:
    decision = decide_moves(cluster({1: [0, 1, 2], 2: [0, 1]}), threshold=0.1, most=5)
    assert decision.moves == ()
    state = cluster({1: [0, 1, 2, 3], 2: [0, 1]})
    assert decide_moves(state, threshold=0.2, most=5).moves == (Move("c", 2, 1, 2),)


def test_nothing_moves_while_something_moves_or_is_broken() -> None:
    uneven = {1: [0, 1, 2, 3], 2: []}
    assert "1 shards are being moved" in decide_moves(cluster(uneven, transfers=1), threshold=0.2, most=5).reason
    broken = ClusterState(frozenset({1, 2}), [ShardReplica("c", 0, 1), ShardReplica("c", 1, 1, active=False)])
    decision = decide_moves(broken, threshold=0.2, most=5)
    assert (decision.moves, decision.reason) == ((), "shard 1 of c on peer 1 is not active")


def test_an_empty_cluster_is_even() -> None:
    assert imbalance_of(ClusterState(frozenset(), ())) == 0.0
    assert decide_moves(ClusterState(frozenset({1, 2}), ()), threshold=0.2, most=5).moves == ()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=40, unique=True), st.integers(1, 10))
def test_moves_never_make_it_worse_or_lose_a_copy(placed: list[tuple[int, int]], most: int) -> None:
    state = ClusterState(frozenset(range(1, 6)), sorted(ShardReplica("c", shard, peer) for shard, peer in placed))
    decision = decide_moves(state, threshold=0.2, most=most)
    assert len(decision.moves) <= most
    after = Counter((each.collection, each.shard_id, each.peer_id) for each in state.replicas)
    for move in decision.moves:
        after[move.collection, move.shard_id, move.from_peer_id] -= 1
        after[move.collection, move.shard_id, move.to_peer_id] += 1
    assert set(after.values()) <= {0, 1}
    kept = ClusterState(state.peers, sorted(ShardReplica(*place) for place, count in after.items() if count))
    assert len(kept.replicas) == len(state.replicas)
    assert imbalance_of(kept) <= imbalance_of(state)
