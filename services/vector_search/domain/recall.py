"""How many of the truly nearest points a search finds, with filters that let a chosen part of the points pass."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import Filter, Operator, Predicate
from vector_search.domain.dense import SAMPLE_FIELD, DenseIndex, Neighbours, sample_numbers

SELECTIVITIES = (1.0, 0.1, 0.01)
MAX_K = 100
MAX_SAMPLES = 10_000

_PAGE = 1_000
_SAME = 1e-6  # scores that differ by less, relatively, are a tie: the search and the truth add up in different orders


@dataclass(frozen=True, slots=True)
class Measurement:
    """The recall under one filter."""

    selectivity: float
    """Which part of the points the filter lets pass."""
    recall: float
    """The mean share of the exact k nearest that was found, ties in distance counted as found; 1 without any points."""
    p50_ms: float
    """The median milliseconds of one search."""


@dataclass(frozen=True, slots=True)
class RecallReport:
    """What was measured, in the order of the selectivities."""

    measurements: Sequence[Measurement]
    points: int


async def measure_recall(
    index: DenseIndex,
    *,
    k: int = 10,
    samples: int = 200,
    selectivities: Sequence[float] = SELECTIVITIES,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> RecallReport:
    """Compare searches for stored vectors, drawn by the seed, with exact searches for the same; each excludes itself.

    Raises:
        InvalidArgumentError: k, the number of samples or a selectivity is out of range.
    """
    _check(k, samples, selectivities)
    keys, queries = await _draw(index, samples, np.random.default_rng(seed))
    measurements = []
    for selectivity in selectivities:
        passing = _passing(selectivity)
        shares, seconds = [], []
        for key, query in zip(keys, queries, strict=True):
            began = clock()
            (found,) = await index.search(query[None], limit=k, conditions=passing, exclude=[key[None]])
            seconds.append(clock() - began)
            (truth,) = await index.search(query[None], limit=k, conditions=passing, exclude=[key[None]], exact=True)
            shares.append(_share_found(found, truth))
        recall = float(np.mean(shares)) if shares else 1.0
        p50_ms = float(np.median(seconds)) * 1_000 if seconds else 0.0
        measurements.append(Measurement(selectivity, recall, p50_ms))
    return RecallReport(tuple(measurements), await index.count())


def _check(k: int, samples: int, selectivities: Sequence[float]) -> None:
    if not 1 <= k <= MAX_K:
        raise InvalidArgumentError(f"k is 1 to {MAX_K}, not {k}", field="k")
    if not 1 <= samples <= MAX_SAMPLES:
        raise InvalidArgumentError(f"samples is 1 to {MAX_SAMPLES}, not {samples}", field="samples")
    for selectivity in selectivities:
        if not 0 < selectivity <= 1:
            raise InvalidArgumentError(f"a selectivity lies in (0, 1], not {selectivity}", field="selectivities")


def _passing(selectivity: float) -> Filter:
    return () if selectivity == 1 else (Predicate(SAMPLE_FIELD, Operator.LTE, (selectivity,)),)


async def _draw(index: DenseIndex, samples: int, random: np.random.Generator) -> tuple[Keys, Floats]:
    """Draw stored points in one pass: those with the smallest of some numbers that key and seed give."""
    salt = random.integers(0, 2**62)
    keys = np.empty(0, dtype=np.int64)
    vectors = np.empty((0, index.space.dimensions), dtype=np.float32)
    async for page in index.scroll(_PAGE):
        keys, vectors = np.concatenate([keys, page.keys]), np.concatenate([vectors, page.vectors])
        drawn = np.argsort(sample_numbers(keys ^ salt), kind="stable")[:samples]
        keys, vectors = keys[drawn], vectors[drawn]
    return keys, vectors


def _share_found(found: Neighbours, truth: Neighbours) -> float:
    if not len(truth.keys):
        return 1.0
    last = float(truth.scores[-1])
    good_enough = found.scores >= last - _SAME * max(abs(last), 1.0)
    return float(np.count_nonzero(good_enough | np.isin(found.keys, truth.keys))) / len(truth.keys)
