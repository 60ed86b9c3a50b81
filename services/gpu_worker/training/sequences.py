"""Users' histories as flat arrays: each item once, at its last interaction, oldest first."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpu_worker.domain.training import Numbers, TrainingData
from servicekit.arrays import Floats, Keys


@dataclass(frozen=True, slots=True)
class Sequences:
    """U users' histories, one after the other.

    Args:
        starts: int64[U + 1], where each user's history begins.
        items: int32[I], item numbers, distinct within a user, oldest first.
        strengths: float32[I], signed.
        times_s: float64[I], Unix seconds.
        n_items: How many items the catalogue has.
    """

    starts: Keys
    items: Numbers
    strengths: Floats
    times_s: npt.NDArray[np.float64]
    n_items: int

    @property
    def n_users(self) -> int:
        """How many users there are."""
        return len(self.starts) - 1

    @property
    def users(self) -> Keys:
        """int64[I], the user's number of each entry."""
        return np.repeat(np.arange(self.n_users), np.diff(self.starts))

    def select(self, mask: npt.NDArray[np.bool_]) -> "Sequences":
        """Keep some entries, and every user, if with an empty history."""
        counts = np.bincount(self.users[mask], minlength=self.n_users)
        return Sequences(
            starts=np.concatenate([[0], counts.cumsum()]),
            items=self.items[mask],
            strengths=self.strengths[mask],
            times_s=self.times_s[mask],
            n_items=self.n_items,
        )

    def positive(self) -> "Sequences":
        """Keep what users took to; models learn from that, dislikes only steer queries."""
        return self.select(self.strengths > 0.0)

    def popularity(self) -> npt.NDArray[np.float64]:
        """float64[N], how many users each item has."""
        return np.bincount(self.items, minlength=self.n_items).astype(np.float64)


def sequences_of(data: TrainingData) -> Sequences:
    """Leave out interactions with unknown items, keep the last one of each (user, item)."""
    numbers = np.searchsorted(data.item_keys, data.interaction_keys)
    numbers = np.minimum(numbers, len(data.item_keys) - 1)
    known = data.item_keys[numbers] == data.interaction_keys
    numbers, times_ms, weights = numbers[known].astype(np.int32), data.times_ms[known], data.weights[known]
    user_keys = data.user_keys[known]
    # A stable sort keeps the order of arrival where times tie.
    _, users = np.unique(user_keys, return_inverse=True)
    order = np.lexsort((np.arange(len(users)), times_ms, users))
    users, numbers, times_ms, weights = users[order], numbers[order], times_ms[order], weights[order]
    pairs = users.astype(np.int64) * len(data.item_keys) + numbers
    _, from_the_end = np.unique(pairs[::-1], return_index=True)
    keep = np.sort(len(pairs) - 1 - from_the_end)
    counts = np.bincount(users[keep], minlength=int(users.max(initial=-1)) + 1)
    return Sequences(
        starts=np.concatenate([[0], counts.cumsum()]),
        items=numbers[keep],
        strengths=weights[keep].astype(np.float32),
        times_s=times_ms[keep] / 1000.0,
        n_items=len(data.item_keys),
    )


def tied_positions(times_s: npt.NDArray[np.float64], groups: Keys) -> npt.NDArray[np.float64]:
    """Give each entry its mean position among the entries of the same moment, counted within its group.

    Args:
        times_s: float64[I], sorted within each group, in either direction.
        groups: int64[I], sorted.

    Returns:
        float64[I], 0 for the first of a group.
    """
    if not len(times_s):
        return np.empty(0, np.float64)
    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    first = np.flatnonzero(new_group)
    positions = np.arange(len(times_s)) - np.repeat(first, np.diff(np.append(first, len(times_s))))
    moments = (new_group | np.concatenate([[True], times_s[1:] != times_s[:-1]])).cumsum() - 1
    tied: npt.NDArray[np.float64] = (np.bincount(moments, positions) / np.bincount(moments))[moments]
    return tied
