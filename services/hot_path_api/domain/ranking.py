"""Puts popular items behind those that the user's own history speaks for, and before those it speaks against."""

import numpy as np

from hot_path_api.domain.candidates import TRENDING, Candidates, merge
from servicekit.arrays import Floats


def top_up(pool: Candidates, scores: Floats, popular: Candidates, *, likes: bool = True) -> tuple[Candidates, Floats]:
    """Add popular items to a pool that is too small, in three tiers that scores keep apart.

    First the candidates for which the sources' shares add up to something positive, by their scores as they were.
    Then popular items, by popularity: with no candidates at all the score is the popularity itself. Last what the
    history speaks against (the neighbours of an item that was disliked), popular or not.

    Args:
        pool: What the history retrieved.
        scores: float32[N] of the pool.
        popular: With the one feature "trending".
        likes: Whether the history holds anything that was liked; what dislikes alone speak for is noise.

    Returns:
        The whole pool and its scores.
    """
    if not len(popular.keys):
        return pool, scores
    if not len(pool.keys):
        return popular, popular.features[0]
    merged = merge([pool, popular])
    shares = merged.features[merged.names.index(TRENDING)]
    evidence = merged.evidence() - shares
    known = np.searchsorted(merged.keys, pool.keys)
    tiered = np.empty(len(merged.keys), np.float32)
    tiered[known] = scores

    first, last = (evidence > 0.0) & likes, evidence < 0.0
    between = ~(first | last)
    floor = float(tiered[first].min()) - 1.0 if first.any() else 0.0
    tiered[between] = floor + 0.999 * shares[between]  # 0.999 keeps the most popular one below the first tier
    tiered[last] = floor - 1.0 + evidence[last]
    return merged, tiered
