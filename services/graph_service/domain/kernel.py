"""The compiled loop of composition: adds up related lists, keeps the best and names the list that gave most.

What a batch costs does not grow with the catalogue: the accumulators are dense, but a user's pass clears exactly what
it touched. Everything is an array, for numba.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from servicekit.compiled import compiled
from servicekit.heap import sift_down, sift_up, unpack_heap


class Wishes(NamedTuple):
    """What is to be composed for U users from L lists of E entries in all."""

    positions: npt.NDArray[np.int32]
    """[E, 2]: the first column has the items' positions."""
    scores: npt.NDArray[np.float32]
    """[E, 2], the same memory: the second column has the items' scores."""
    list_starts: npt.NDArray[np.int64]
    """[L + 1]: where the entries of each list begin."""
    starts: npt.NDArray[np.int64]
    """[U + 1]: where each user's terms begin; a term is a list, its weight and its place in the history."""
    lists: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    places: npt.NDArray[np.int32]
    exclude_starts: npt.NDArray[np.int64]
    """[U + 1]: where each user's excluded keys begin."""
    exclude: npt.NDArray[np.int64]
    limits: npt.NDArray[np.int64]
    """[U]: how many candidates at most."""


class Scratch(NamedTuple):
    """Work space for P positions that is kept between calls: all 0, and `marked` anything."""

    sums: npt.NDArray[np.float64]
    touched: npt.NDArray[np.uint8]
    slots: npt.NDArray[np.int32]
    """Of a chosen item its place among the chosen, counted from 1."""
    marked: npt.NDArray[np.int32]


class Found(NamedTuple):
    """Where the answers go; only the first `counts[user]` places of each row are written."""

    positions: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    because: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


@compiled
def compose(wishes: Wishes, keys: Any, shown: Any, scratch: Scratch, found: Found) -> None:
    """Compose every user's candidates: positive sums of what may be shown, best first, ties by key."""
    most = 0
    for user in range(len(wishes.limits)):
        most = max(most, wishes.exclude_starts[user + 1] - wishes.exclude_starts[user])
    size = 64
    while size < 2 * most:
        size *= 2
    excluded = np.full(size, np.int64(-1))
    shares = np.empty(found.scores.shape[1], np.float64)
    for user in range(len(wishes.limits)):
        _exclude(wishes, user, excluded)
        marks = _add_up(wishes, user, scratch)
        count = _select(
            wishes.limits[user], keys, shown, scratch, marks, excluded, found.positions[user], found.scores[user]
        )
        found.counts[user] = count
        _trace(wishes, user, scratch, found.positions[user, :count], shares, found.because[user])
        for i in range(marks):
            position = scratch.marked[i]
            scratch.sums[position] = 0.0
            scratch.touched[position] = 0
        excluded[:] = -1


@compiled
def _exclude(wishes: Any, user: Any, excluded: Any) -> None:
    """Put the user's excluded keys into a hash table with open addresses; keys are hashes already."""
    mask = len(excluded) - 1
    for i in range(wishes.exclude_starts[user], wishes.exclude_starts[user + 1]):
        key = wishes.exclude[i]
        slot = key & mask
        while excluded[slot] >= 0 and excluded[slot] != key:
            slot = (slot + 1) & mask
        excluded[slot] = key


@compiled
def _is_excluded(key: Any, excluded: Any) -> Any:
    mask = len(excluded) - 1
    slot = key & mask
    while excluded[slot] >= 0:
        if excluded[slot] == key:
            return True
        slot = (slot + 1) & mask
    return False


@compiled
def _add_up(wishes: Any, user: Any, scratch: Any) -> Any:
    """Add up the user's lists; give how many items are touched."""
    sums = scratch.sums
    touched = scratch.touched
    marked = scratch.marked
    marks = np.uintp(0)
    for term in range(wishes.starts[user], wishes.starts[user + 1]):
        weight = wishes.weights[term]
        number = wishes.lists[term]
        for entry in range(np.uintp(wishes.list_starts[number]), np.uintp(wishes.list_starts[number + 1])):
            position = np.uintp(wishes.positions[entry, 0])
            marked[marks] = position
            marks += np.uintp(touched[position] == 0)
            touched[position] = 1
            sums[position] += weight * wishes.scores[entry, 1]
    return np.int64(marks)


@compiled
def _select(
    limit: Any, keys: Any, shown: Any, scratch: Any, marks: Any, excluded: Any, positions: Any, scores: Any
) -> Any:
    """Keep the best of the touched items, best first; give how many."""
    count = 0
    for i in range(marks if limit > 0 else 0):
        position = np.uintp(scratch.marked[i])
        score = np.float32(scratch.sums[position])
        if score <= 0.0 or not shown[position]:
            continue
        if count == limit:
            is_better = score > scores[0] or (score == scores[0] and keys[position] < keys[positions[0]])
            if is_better and not _is_excluded(keys[position], excluded):
                sift_down(positions, scores, keys, count, position, score)
        elif not _is_excluded(keys[position], excluded):
            sift_up(positions, scores, keys, count, position, score)
            count += 1
    unpack_heap(positions, scores, keys, count)
    return count


@compiled
def _trace(wishes: Any, user: Any, scratch: Any, chosen: Any, shares: Any, because: Any) -> None:
    """Find which place of the history gave most to each chosen item, the first of equals: the same lists again."""
    slots = scratch.slots
    for place in range(len(chosen)):
        slots[chosen[place]] = place + 1
        shares[place] = 0.0
        because[place] = -1
    for term in range(wishes.starts[user], wishes.starts[user + 1]):
        weight = wishes.weights[term]
        number = wishes.lists[term]
        for entry in range(np.uintp(wishes.list_starts[number]), np.uintp(wishes.list_starts[number + 1])):
            slot = slots[np.uintp(wishes.positions[entry, 0])]
            if slot and weight * wishes.scores[entry, 1] > shares[slot - 1]:
                shares[slot - 1] = weight * wishes.scores[entry, 1]
                because[slot - 1] = wishes.places[term]
    for place in range(len(chosen)):
        slots[chosen[place]] = 0
