import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recommend_cli.datasets.movielens import Ratings
from recommend_cli.evaluation.splits import last_interactions, random_quarter


def _ratings(rows: list[tuple[int, int]]) -> Ratings:
    """Make ratings of (user, time) in the order of a file; the item is the row's number."""
    users, times = zip(*rows, strict=True)
    return Ratings(
        users=np.array(users, dtype=np.int64),
        items=np.arange(len(rows), dtype=np.int64),
        values=np.ones(len(rows)),
        times_s=np.array(times, dtype=np.int64),
    )


_some_ratings = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=80).map(_ratings)


def test_ties_keep_the_order_of_the_file() -> None:
    ratings = _ratings([(1, 5), (2, 1), (1, 5), (1, 3), (1, 5)])
    assert ratings.rows_by_user()[1].tolist() == [3, 0, 2, 4]
    split = last_interactions(ratings, count=1)
    assert split.train[1].tolist() == [3, 0, 2]
    assert split.test[1].tolist() == [4]


def test_a_quarter_of_each_user_rounded_as_published() -> None:
    # round(.75 * 20) = 15, round(.75 * 21) = 16, round(.75 * 22 = 16.5) = 16, round(.75 * 26 = 19.5) = 20
    sizes = {1: (20, 5), 2: (21, 5), 3: (22, 6), 4: (26, 6)}
    ratings = _ratings([(user, 0) for user, (size, _) in sizes.items() for _ in range(size)])
    split = random_quarter(ratings, seed=1)
    assert {user: len(rows) for user, rows in split.test.items()} == {user: held for user, (_, held) in sizes.items()}


@settings(max_examples=50)
@given(_some_ratings, st.integers(0, 3))
def test_the_parts_are_disjoint_complete_and_in_order(ratings: Ratings, seed: int) -> None:
    for split in (random_quarter(ratings, seed=seed), last_interactions(ratings, count=2)):
        for user, rows in ratings.rows_by_user().items():
            train, test = split.train[user].tolist(), split.test[user].tolist()
            assert sorted([*train, *test]) == sorted(rows.tolist())
            for part in (train, test):
                assert part == sorted(part, key=lambda row: (ratings.times_s[row], row))


def test_the_seed_decides() -> None:
    ratings = _ratings([(user, time) for user in range(10) for time in range(20)])
    first, again, other = (random_quarter(ratings, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first.test[user], again.test[user]) for user in first.test)
    assert any(not np.array_equal(first.test[user], other.test[user]) for user in first.test)
