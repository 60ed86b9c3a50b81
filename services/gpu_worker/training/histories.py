"""Queries and what they should have found: histories cut off before a hold-out begins."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gpu_worker.domain.training import Numbers, SourceSettings
from gpu_worker.training.sequences import Sequences, tied_positions
from servicekit.arrays import Floats, Keys

_STEPS = 5  # a user's last interactions, replayed one by one
_PART = 4  # one in so many of a user's interactions is held out at random
MAX_QUERIES = 5_000
"""More queries than this sharpen the few weights no further."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Q histories, each with the items that follow.

    Args:
        rows: int64[H], the query of each history entry, sorted.
        items: int32[H], item numbers, newest first within a query.
        strengths: float32[H], signed.
        positions: float64[H], 0 for the newest.
        tied: float64[H], positions with those of one moment averaged.
        ages_s: float64[H], seconds before the newest.
        targets: bool [Q, N], sparse: what should be found.
        users: int64[Q], whose history it is.
    """

    rows: Keys
    items: Numbers
    strengths: Floats
    positions: npt.NDArray[np.float64]
    tied: npt.NDArray[np.float64]
    ages_s: npt.NDArray[np.float64]
    targets: sp.csr_array
    users: Keys

    @property
    def count(self) -> int:
        """How many queries there are."""
        return self.targets.shape[0]

    def weigh(self, settings: SourceSettings, *, max_history: int | None = None) -> sp.csr_array:
        """Give float32 [Q, N]: the weight of each history item, as vector_search computes it."""
        weights = self.strengths.astype(np.float64)
        if settings.half_life_items is not None:
            positions = self.tied if settings.ties_share_position else self.positions
            weights = weights * 0.5 ** (positions / settings.half_life_items)
        if settings.half_life_s is not None:
            recent = 0.5 ** (self.ages_s / settings.half_life_s)
            weights = weights * (settings.time_floor + (1.0 - settings.time_floor) * recent)
        if max_history is not None:
            weights = np.where(self.positions < max_history, weights, 0.0)
        return sp.csr_array((weights.astype(np.float32), (self.rows, self.items)), shape=self.targets.shape)

    def seen(self) -> sp.csr_array:
        """Give bool [Q, N]: what must not be found."""
        return sp.csr_array((np.ones(len(self.rows), np.bool_), (self.rows, self.items)), shape=self.targets.shape)


def hold_out_last(sequences: Sequences, generator: np.random.Generator) -> tuple[Sequences, Queries]:
    """Hold out each user's last interactions, at most half of them; replay them one by one.

    Returns:
        What remains for the models, and a query before each held-out interaction that the user took to.
    """
    lengths = np.diff(sequences.starts)
    held = np.minimum(_STEPS, lengths // 2)
    users = _draw(np.flatnonzero(held), MAX_QUERIES // _STEPS, generator)
    ends = sequences.starts[1:]
    cuts = [
        (user, place)
        for user in users
        for place in range(ends[user] - held[user], ends[user])
        if sequences.strengths[place] > 0.0
    ]
    histories = [np.arange(place - 1, sequences.starts[user] - 1, -1) for user, place in cuts]
    targets = [np.array([place]) for _, place in cuts]
    kept = np.arange(len(sequences.items)) < np.repeat(ends - held, lengths)
    return sequences.select(kept), _queries(sequences, histories, targets, np.array([user for user, _ in cuts], int))


def hold_out_at_random(sequences: Sequences, generator: np.random.Generator) -> tuple[Sequences, Queries]:
    """Hold out a random quarter of what each user took to; one query a user.

    Returns:
        What remains for the models, and the queries.
    """
    kept = np.ones(len(sequences.items), np.bool_)
    for begin, end in zip(sequences.starts[:-1], sequences.starts[1:], strict=True):
        positive = begin + np.flatnonzero(sequences.strengths[begin:end] > 0.0)
        kept[generator.permutation(positive)[: len(positive) // _PART]] = False
    has_targets = np.flatnonzero(np.bincount(sequences.users[~kept], minlength=sequences.n_users))
    users = _draw(has_targets, MAX_QUERIES, generator)
    histories, targets = [], []
    for user in users:
        places = np.arange(sequences.starts[user], sequences.starts[user + 1])
        histories.append(places[kept[places]][::-1])
        targets.append(places[~kept[places]])
    return sequences.select(kept), _queries(sequences, histories, targets, users)


def _draw(users: Keys, most: int, generator: np.random.Generator) -> Keys:
    return users if len(users) <= most else np.sort(generator.choice(users, most, replace=False))


def _queries(sequences: Sequences, histories: list[Keys], targets: list[Keys], users: Keys) -> Queries:
    lengths = [len(history) for history in histories]
    rows = np.repeat(np.arange(len(histories)), lengths)
    places = np.concatenate(histories) if histories else np.empty(0, np.int64)
    times_s = sequences.times_s[places]
    newest_s = np.repeat([sequences.times_s[history[0]] if len(history) else 0.0 for history in histories], lengths)
    target_rows = np.repeat(np.arange(len(targets)), [len(each) for each in targets])
    target_items = sequences.items[np.concatenate(targets)] if targets else np.empty(0, np.int32)
    return Queries(
        rows=rows,
        items=sequences.items[places],
        strengths=sequences.strengths[places],
        positions=np.concatenate([np.arange(length, dtype=np.float64) for length in lengths] or [np.empty(0)]),
        tied=tied_positions(times_s, rows),
        ages_s=newest_s - times_s,
        targets=sp.csr_array(
            (np.ones(len(target_rows), np.bool_), (target_rows, target_items)),
            shape=(len(histories), sequences.n_items),
        ),
        users=users,
    )
