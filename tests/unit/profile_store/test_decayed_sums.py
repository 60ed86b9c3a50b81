from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profile_store.domain.popularity import HALF_LIVES_MS, DecayedSums, Window

NOW = 1_700_000_000_000
YEAR_MS = 365 * 24 * 3_600_000

deeds = st.lists(
    st.tuples(st.integers(0, 3), st.integers(NOW - 3 * YEAR_MS, NOW), st.floats(0.01, 100.0)), min_size=1, max_size=40
)
Deeds = list[tuple[int, int, float]]


def add(sums: DecayedSums, part: Deeds) -> DecayedSums:
    rows, times, weights = zip(*part, strict=True)
    return sums.add(np.array(rows), np.array(times), np.array(weights))


def exact(part: Deeds, row: int, window: Window, now_ms: int) -> float:
    return float(sum(w * np.exp2(-(now_ms - t) / HALF_LIVES_MS[window]) for r, t, w in part if r == row))


@given(deeds, st.randoms(use_true_random=False))
def test_any_order_and_any_batches_give_the_sum_of_the_parts(part: Deeds, random: Random) -> None:
    sums = add(DecayedSums.zeros(4), part)
    shuffled = part[:]
    random.shuffle(shuffled)
    one_by_one = DecayedSums.zeros(4)
    for deed in shuffled:
        one_by_one = add(one_by_one, [deed])
    for window in Window:
        wanted = [exact(part, row, window, NOW) for row in range(4)]
        assert sums.worth(window, NOW).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-300)
        assert one_by_one.worth(window, NOW).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-300)


@given(deeds, deeds)
def test_what_was_added_can_be_taken_away(kept: Deeds, gone: Deeds) -> None:
    sums = add(add(DecayedSums.zeros(4), kept), gone)
    rows, times, weights = zip(*gone, strict=True)
    left = sums.subtract(np.array(rows), np.array(times), np.array(weights))
    for window in Window:
        both = sums.worth(window, NOW)
        wanted = np.array([exact(kept, row, window, NOW) for row in range(4)])
        assert np.all(np.abs(left.worth(window, NOW) - wanted) <= 2e-9 * both + 1e-300)
    nothing = left.subtract(*(np.array(column) for column in zip(*kept, strict=True)))
    assert not nothing.sums[:, Window.ALL].any()


def test_the_order_is_that_of_the_worth_even_when_the_worth_is_too_small_to_write() -> None:
    sums = add(DecayedSums.zeros(3), [(0, NOW, 1.0), (1, NOW - 3_600_000, 3.0), (2, NOW - YEAR_MS, 100.0)])
    order = sums.order()[:, Window.HOUR]
    assert order[1] > order[0] > order[2]
    assert sums.worth(Window.HOUR, NOW + YEAR_MS).tolist() == [0.0, 0.0, 0.0]
    assert DecayedSums.zeros(1).order().tolist() == [[-np.inf] * 5]


def test_rows_are_read_back() -> None:
    sums = DecayedSums.from_rows([(NOW, 1.0, 2.0, 3.0, 4.0, 5.0)])
    assert sums.reference_ms.tolist() == [NOW]
    assert sums.sums.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0]]
    assert DecayedSums.from_rows([]).sums.shape == (0, 5)
