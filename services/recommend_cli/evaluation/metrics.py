"""The metrics of a ranked list, by their usual definitions: binary gain, one list and one set of relevant items.

Shared by all functions: `recommended` is a list without repeats, best first, of which the first `k` count; `relevant`
is not empty. Järvelin and Kekäläinen (2002) for NDCG; Manning, Raghavan and Schütze (2008), chapter 8, for the rest.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

CUTOFF: Final = 10


def hit_rate(recommended: Sequence[str], relevant: Collection[str], *, k: int = CUTOFF) -> float:
    """Give 1 when at least one of the first k is relevant, else 0."""
    return float(any(item in relevant for item in recommended[:k]))


def recall(recommended: Sequence[str], relevant: Collection[str], *, k: int = CUTOFF) -> float:
    """Give the share of the relevant items that are among the first k."""
    return sum(item in relevant for item in recommended[:k]) / len(relevant)


def ndcg(recommended: Sequence[str], relevant: Collection[str], *, k: int = CUTOFF) -> float:
    """Give the discounted gain over that of the ideal list, which has min(k, relevant) hits in front."""
    gain = sum(_discount(rank) for rank, item in enumerate(recommended[:k]) if item in relevant)
    ideal = sum(_discount(rank) for rank in range(min(k, len(relevant))))
    return gain / ideal


def average_precision(recommended: Sequence[str], relevant: Collection[str], *, k: int = CUTOFF) -> float:
    """Give the mean, over min(k, relevant), of the precision at each hit among the first k."""
    hits, total = 0, 0.0
    for rank, item in enumerate(recommended[:k], start=1):
        if item in relevant:
            hits += 1
            total += hits / rank
    return total / min(k, len(relevant))


METRICS: Final[Mapping[str, Callable[[Sequence[str], Collection[str]], float]]] = MappingProxyType(
    {
        f"HR@{CUTOFF}": hit_rate,
        f"NDCG@{CUTOFF}": ndcg,
        f"Recall@{CUTOFF}": recall,
        f"MAP@{CUTOFF}": average_precision,
    }
)


def coverage(lists: Sequence[Sequence[str]], *, catalogue_size: int, k: int = CUTOFF) -> float:
    """Give the share of the catalogue that is among the first k of at least one list."""
    return len({item for recommended in lists for item in recommended[:k]}) / catalogue_size


def mean_popularity(lists: Sequence[Sequence[str]], popularity: Mapping[str, int], *, k: int = CUTOFF) -> float:
    """Give the mean number of training interactions of what was recommended; 0 when nothing was."""
    counts = [popularity.get(item, 0) for recommended in lists for item in recommended[:k]]
    return sum(counts) / len(counts) if counts else 0.0


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean and its standard error (sample deviation over the root of the count; 0 for a single value)."""
    array = np.asarray(values, dtype=np.float64)
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    return float(array.mean()), float(error)


def _discount(rank: int) -> float:
    """Give the weight of a hit at a rank counted from 0."""
    return 1 / math.log2(rank + 2)
