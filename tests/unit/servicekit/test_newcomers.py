import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.newcomers import SPACING, seat_newcomers


def seated(scores: list[float], resemblance: list[float], new: list[int]) -> list[float]:
    is_new = np.isin(np.arange(len(scores)), new)
    placed = seat_newcomers(np.array(scores, np.float32), np.array(resemblance, np.float32), is_new)
    return [float(score) for score in placed]


def test_a_newcomer_is_scored_as_the_known_item_that_resembles_as_much() -> None:
    known = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    alike = [0.1, 0.0, 0.6, 0.5, 0.2, 0.0]
    # The scores of those that resemble at all are 9, 7, 6 and 5, and go to the ranks by resemblance.
    assert seated([*known, 0.0], [*alike, 0.3], [6])[-1] == 6.0
    assert seated([*known, 0.0], [*alike, 0.05], [6])[-1] == 5.0


def test_newcomers_have_one_place_of_five_at_most() -> None:
    known = [float(20 - place) for place in range(20)]
    found = seated([*known, 0.0, 0.0], [*known, 99.0, 98.0], [20, 21])
    assert found[20] == known[SPACING - 1]
    assert found[21] == known[2 * SPACING - 1]


@pytest.mark.parametrize(
    ("scores", "resemblance", "new"),
    [
        ([3.0, 2.0], [1.0, 1.0], []),
        ([3.0, 2.0], [1.0, 0.0], [1]),
        ([3.0, 2.0], [0.0, 1.0], [1]),
        ([3.0, 2.0], [1.0, 1.0], [0, 1]),
        ([3.0, 2.0], [1.0, 1.0], [0]),
    ],
)
def test_without_a_measure_or_with_a_better_score_nothing_changes(
    scores: list[float], resemblance: list[float], new: list[int]
) -> None:
    assert seated(scores, resemblance, new) == scores


@given(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=30)
)
def test_no_score_falls_and_the_known_keep_theirs(items: list[tuple[float, float, bool]]) -> None:
    scores, resemblance, is_new = (list(each) for each in zip(*items, strict=True))
    found = seated(scores, resemblance, [place for place, new in enumerate(is_new) if new])
    assert all(after >= before for before, after in zip(scores, found, strict=True))
    assert all(after == before for before, after, new in zip(scores, found, is_new, strict=True) if not new)
