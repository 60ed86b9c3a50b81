"""Ranking metrics with binary relevance, the ideal over min(k, relevant)."""

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats, Keys

K = 10
Values = npt.NDArray[np.float64]


def ranking_metrics(hits: npt.NDArray[np.bool_], relevant: Keys) -> dict[str, Values]:
    """Score lists.

    Args:
        hits: bool[Q, K], whether the item at each position was relevant.
        relevant: int64[Q], how many items would have been, at least 1.

    Returns:
        float64[Q] each of HR@10, NDCG@10, Recall@10 and MAP@10.
    """
    gains = 1.0 / np.log2(np.arange(K) + 2)
    found = np.minimum(relevant, K)
    precision = hits.cumsum(axis=1) / np.arange(1, K + 1)
    return {
        f"HR@{K}": hits.any(axis=1).astype(np.float64),
        f"NDCG@{K}": (hits * gains).sum(axis=1) / gains.cumsum()[found - 1],
        f"Recall@{K}": hits.sum(axis=1) / relevant,
        f"MAP@{K}": (hits * precision).sum(axis=1) / found,
    }


def top_hits(scores: Floats, labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Give the labels of the best K by score, best first; an earlier column wins a tie.

    Args:
        scores: float32[Q, C].
        labels: bool[Q, C].

    Returns:
        bool[Q, K], False where there are fewer than K columns.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    hits = np.take_along_axis(labels, order, axis=1)
    return np.pad(hits, ((0, 0), (0, K - hits.shape[1])))
