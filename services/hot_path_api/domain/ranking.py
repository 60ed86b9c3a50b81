"""Puts popular items behind those that the user's own history speaks for, and before those it speaks against."""

import numpy as np

from hot_path_api.domain.blend import Ranked, in_order
from hot_path_api.domain.candidates import TRENDING, Candidates
from hot_path_api.domain.pools import merge
from servicekit.arrays import Floats


def top_up(pool: Candidates, ranked: Ranked, popular: Candidates, *, likes: bool = True) -> tuple[Candidates, Ranked]:
    """Add popular items to a pool that is too small, in three tiers that scores keep apart.

    First the candidates for which the sources' shares add up to something positive, by their scores as they were.
    Then popular items, by popularity: with no candidates at all the score is the popularity itself. Last what the
    history speaks against (the neighbours of an item that was disliked), popular or not.

    Args:
        pool: What the history retrieved.
        ranked: The pool by its scores as they were.
        popular: With the one feature "trending".
        likes: Whether the history holds anything that was liked; what dislikes alone speak for is noise.

    Returns:
        The whole pool in its new order.
    """
    if not len(popular.keys):
        return pool, ranked
    if not len(pool.keys):
        return popular, _in_order(popular, popular.features[0], ranked.speaking)
    merged = merge([pool, popular])
    shares = merged.features[merged.names.index(TRENDING)]
    evidence = merged.evidence() - shares
    tiered = np.empty(len(merged.keys), np.float32)
    tiered[np.searchsorted(merged.keys, ranked.keys)] = ranked.scores

    first, last = (evidence > 0.0) & likes, evidence < 0.0
    between = ~(first | last)
    floor = float(tiered[first].min()) - 1.0 if first.any() else 0.0
    tiered[between] = floor + 0.999 * shares[between]  # 0.999 keeps the most popular one below the first tier
    tiered[last] = floor - 1.0 + evidence[last]
    return merged, _in_order(merged, tiered, ranked.speaking)


def _in_order(pool: Candidates, scores: Floats, speaking: int) -> Ranked:
    (ranked,) = in_order([pool], scores[np.newaxis], [speaking])
    return ranked
