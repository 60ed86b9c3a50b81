"""The measuring of recall, on indexes that miss a known part, and what sample numbers are."""

from collections.abc import Sequence
from itertools import count

import numpy as np
import pytest

from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import Filter
from vector_search.adapters.exact_index import ExactVectorIndex
from vector_search.domain.dense import Distance, Neighbours, Payload, Points, Space, sample_numbers
from vector_search.domain.recall import RecallReport, measure_recall

SPACE = Space(4, Distance.COSINE)


class ForgetfulIndex(ExactVectorIndex):
    """Overlooks the nearest fifth of every answer that need not be exact."""

    async def search(
        self,
        vectors: Floats,
        *,
        limit: int,
        conditions: Filter = (),
        exclude: Sequence[Keys] = (),
        exact: bool = False,
    ) -> list[Neighbours]:
        missed = 0 if exact else limit // 5
        found = await super().search(vectors, limit=limit + missed, conditions=conditions, exclude=exclude)
        return [Neighbours(keys[missed:], scores[missed:]) for keys, scores in found]


async def filled(index: ExactVectorIndex, vectors: Floats) -> ExactVectorIndex:
    await index.upsert(Points(np.arange(len(vectors)), vectors, [Payload()] * len(vectors)))
    return index


def random_vectors(rows: int) -> Floats:
    return np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)


async def test_what_is_overlooked_is_counted() -> None:
    seconds = count()
    forgetful = await filled(ForgetfulIndex(SPACE), random_vectors(2_000))
    report = await measure_recall(forgetful, samples=20, clock=lambda: float(next(seconds)))
    assert report.points == 2_000
    assert [each.selectivity for each in report.measurements] == [1.0, 0.1, 0.01]
    assert [each.recall for each in report.measurements] == pytest.approx([0.8, 0.8, 0.8])
    assert [each.p50_ms for each in report.measurements] == [1_000.0] * 3


async def test_a_tie_in_distance_counts_as_found() -> None:
    same = await filled(ForgetfulIndex(SPACE), np.ones((100, 4), dtype=np.float32))
    report = await measure_recall(same, samples=5, selectivities=(1.0,))
    assert report.measurements[0].recall == 1.0


async def test_the_seed_decides_what_is_drawn() -> None:
    class Remembering(ExactVectorIndex):
        asked: list[Floats]

        async def search(
            self,
            vectors: Floats,
            *,
            limit: int,
            conditions: Filter = (),
            exclude: Sequence[Keys] = (),
            exact: bool = False,
        ) -> list[Neighbours]:
            if not exact:
                self.asked.append(vectors)
            return await super().search(vectors, limit=limit, conditions=conditions, exclude=exclude)

    async def drawn(seed: int) -> Floats:
        index = Remembering(SPACE)
        index.asked = []
        await filled(index, random_vectors(3_000))
        await measure_recall(index, samples=10, selectivities=(1.0,), seed=seed)
        return np.concatenate(index.asked)

    assert (await drawn(1)).shape == (10, 4)
    assert np.array_equal(await drawn(1), await drawn(1))
    assert not np.array_equal(await drawn(1), await drawn(2))


async def test_nothing_stored_is_nothing_missed() -> None:
    report = await measure_recall(ExactVectorIndex(SPACE), selectivities=(1.0,))
    assert report == RecallReport(report.measurements, 0)
    assert (report.measurements[0].recall, report.measurements[0].p50_ms) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("field", "k", "samples", "selectivity"),
    [("k", 0, 1, 1.0), ("k", 101, 1, 1.0), ("samples", 1, 0, 1.0), ("samples", 1, 10_001, 1.0)]
    + [("selectivities", 1, 1, bad) for bad in (0.0, 1.1, -0.1, float("nan"))],
)
async def test_what_cannot_be_measured_is_refused(field: str, k: int, samples: int, selectivity: float) -> None:
    with pytest.raises(InvalidArgumentError) as told:
        await measure_recall(ExactVectorIndex(SPACE), k=k, samples=samples, selectivities=(selectivity,))
    assert told.value.field == field


def test_sample_numbers_are_fixed_because_they_are_stored() -> None:
    keys = np.array([0, 1, 2**63 - 1], dtype=np.int64)
    assert sample_numbers(keys).tolist() == [0.8833108082136426, 0.5665615751722809, 0.16564699010451844]
    spread = sample_numbers(np.arange(100_000))
    assert spread.min() >= 0.0
    assert spread.max() < 1.0
    assert np.histogram(spread, bins=10, range=(0, 1))[0] == pytest.approx(10_000, rel=0.05)
