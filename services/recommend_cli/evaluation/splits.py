"""Divides MovieLens-100K into a training part and a test part, as each protocol says."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recommend_cli.datasets.movielens import Ratings

TRAINING_SHARE: Final = 0.75

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """For each user the rows to learn from and the rows to predict, both by time, ties by the order of the file."""

    train: dict[int, Rows]
    test: dict[int, Rows]


def random_quarter(ratings: Ratings, *, seed: int) -> Split:
    """Hold out a random quarter of each user's ratings.

    Of n ratings, round(.75 n) stay (halves to the even neighbour, as the published splits do). One generator serves all
    users in the order of their ids.
    """
    generator = np.random.default_rng(seed)
    train, test = {}, {}
    for user, rows in ratings.rows_by_user().items():
        kept = np.zeros(len(rows), dtype=np.bool_)
        kept[generator.permutation(len(rows))[: round(TRAINING_SHARE * len(rows))]] = True
        train[user], test[user] = rows[kept], rows[~kept]
    return Split(train, test)


def last_interactions(ratings: Ratings, *, count: int) -> Split:
    """Hold out each user's last `count` ratings."""
    by_user = ratings.rows_by_user()
    return Split(
        {user: rows[:-count] for user, rows in by_user.items()}, {user: rows[-count:] for user, rows in by_user.items()}
    )
