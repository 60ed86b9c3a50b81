"""The compiled loops: one pass over the rows of a user's history accumulates every source at once.

The tables are memory-mapped files of several element types, so they are
handed over as addresses: one compiled signature serves any number of them. Whoever calls keeps them alive meanwhile.

What a batch costs does not grow with the catalogue: the accumulators are dense, but a user's pass clears exactly the
rows that it touched. Inner loops are free of branches, of signed
indices, which numba would check for being negative, and of calls with arrays, which cost it reference counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from servicekit.compiled import compiled, compiled_loosely
from servicekit.heap import sift_down, sift_up, unpack_heap

_intrinsic = cast("Callable[[Callable[..., Any]], Callable[[Any], Any]]", intrinsic)

# The columns of Model.tables.
INDPTR, INDICES, WEIGHTS, HALF, ROWS = 0, 1, 2, 3, 4
# The columns of Model.parameters.
SCALE, DECAY_BY_POSITION, TIES_SHARE, GAP_FLOOR, DECAY_BY_GAP, MAX_HISTORY = 0, 1, 2, 3, 4, 5
# The places of Model.factors.
FOLD_IN, ITEM_FACTORS, FACTOR_ROWS, DIMENSIONS = 0, 1, 2, 3

TRASH = 16  # several slots, so that adding to one does not wait for the addition before
FAINT = 7.0  # after so many halvings of its weight a history item is not read any more: less than 1 % of the newest
_LEVEL = 20  # of a score's bits the upper ones are its level: an eighth of an octave
_BARRED = -1e9  # so far below zero that no number of visits brings it back


class Model(NamedTuple):
    """What is the same for all users of a batch."""

    tables: npt.NDArray[np.int64]
    """[sources, 5]: addresses of int64 indptr, int32 indices and weights, whether these are float16, rows."""
    parameters: npt.NDArray[np.float32]
    """[sources + 1, 6]: scale, halvings per position, whether what was touched at the same moment shares its position,
    gap floor, halvings per second, history length; the last row is that of the factors."""
    half_values: npt.NDArray[np.float32]
    """[65536]: the number that each float16 bit pattern means."""
    overlay_source: int
    """The source to which the overlay's edges belong; -1: none."""
    heads: npt.NDArray[np.int32]
    """[numbers]: the first overlay edge of each row, -1: none."""
    next_edges: npt.NDArray[np.int32]
    """[edges]: the edge that follows, -1: none."""
    targets: npt.NDArray[np.int32]
    """[edges]: the item number it leads to."""
    edge_weights: npt.NDArray[np.float32]
    """[edges]: its weight."""
    factors: npt.NDArray[np.int64]
    """[4]: addresses of float32 fold-in and item factors, rows, dimensions."""
    columns: npt.NDArray[np.float32]
    """[columns, rows]: the item columns that travel as features."""
    keys: npt.NDArray[np.int64]
    """[numbers]: item keys, which break ties."""
    available: npt.NDArray[np.uint8]
    """[numbers]: whether the item may be recommended at all."""
    passing: npt.NDArray[np.uint8]
    """[numbers]: whether it passes the filter of these users."""
    fresh_from: int
    """Items with this number or a greater one are newer than the model."""
    fresh_share: float
    """The part of a list that is kept for such items, so that they are seen before the model knows them."""


class Users(NamedTuple):
    """The histories of a batch, one after the other, last touched first."""

    starts: npt.NDArray[np.int64]
    """[users + 1]: where each user's history begins."""
    history: npt.NDArray[np.int32]
    """Item numbers, -1: unknown."""
    strengths: npt.NDArray[np.float32]
    """The signed weight of each."""
    ages_s: npt.NDArray[np.float32]
    """Seconds since each was touched."""
    barred_starts: npt.NDArray[np.int64]
    """[users + 1]: where each user's barred items begin."""
    barred: npt.NDArray[np.int32]
    """Item numbers that may not come back besides the history, -1: unknown."""
    keep_history: npt.NDArray[np.uint8]
    """[users]: whether items of the history may come back."""
    source_weights: npt.NDArray[np.float32]
    """[users, sources]: multipliers of the shares in the choice of candidates."""
    reads: npt.NDArray[np.uint8]
    """[users, sources]: whether a source is read at all; the share of one that is not is 0."""
    limits: npt.NDArray[np.int64]
    """[users]: candidates at most."""


class Scratch(NamedTuple):
    """Memory that one thread reuses; a call leaves `rows` and `chosen` all zero and `slots` as it found them."""

    rows: npt.NDArray[np.float32]
    """[numbers, more than sources]: the shares, and behind them the visits; below zero for a barred item."""
    chosen: npt.NDArray[np.uint8]
    """[numbers]: whether the item has its place already, as a new one."""
    slots: npt.NDArray[np.int32]
    """[numbers]: a chosen item's slot in the ledger, TRASH + its place; for all others number % TRASH."""
    marked: npt.NDArray[np.int32]
    """[numbers + 1]: the items whose row is not zero."""
    sums: npt.NDArray[np.float32]
    """[numbers + 1]: the scores of these items, 0 for those that may not be chosen."""


class Ledger(NamedTuple):
    """What history items give to the chosen items; the first TRASH slots belong to all other items together."""

    amounts: npt.NDArray[np.float32]
    """[TRASH + most]: what one history item gives, through all sources."""
    best: npt.NDArray[np.float32]
    """[TRASH + most]: the most that one has given."""
    givers: npt.NDArray[np.int32]
    """[TRASH + most]: which one, by its place in the history; -1: none."""


class Found(NamedTuple):
    """Where the answers go; only the first `counts[user]` places of each row are written."""

    numbers: npt.NDArray[np.int32]
    """[users, most]: item numbers, best first; ties by key."""
    scores: npt.NDArray[np.float32]
    """[users, most]: weighted sums of the shares, all positive."""
    features: npt.NDArray[np.float32]
    """[users, sources + 2 + columns, most]: shares, the row `nearest` left alone, factors, columns."""
    because: npt.NDArray[np.int32]
    """[users, most]: the place in the history of the item that gave most; -1: none gave."""
    counts: npt.NDArray[np.int64]
    """[users]: how many were found."""
    known: npt.NDArray[np.int64]
    """[users]: how many items of the history any source has a row for."""
    vectors: npt.NDArray[np.float32]
    """[users, dimensions]: the users' factor vectors."""


@_intrinsic
def _pointer(_context: Any, address: Any) -> Any:
    """Turn an address into a pointer that numba.carray accepts."""

    def generate(_codegen: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@compiled
def retrieve(model: Model, users: Users, scratch: Scratch, found: Found) -> None:
    """Find every user's candidates with their features and reasons."""
    room = found.numbers.shape[1]
    ledger = Ledger(
        np.empty(TRASH + room, np.float32), np.empty(TRASH + room, np.float32), np.empty(TRASH + room, np.int32)
    )
    positions = np.empty(len(users.history), np.float32)
    for user in range(len(users.limits)):
        begin = users.starts[user]
        end = users.starts[user + 1]
        share_positions(users.ages_s[begin:end], positions[begin:end])
        marks = _bar(users, user, scratch)
        marks, found.known[user] = _accumulate(model, users, user, positions, scratch, marks, found.vectors[user])
        count = _select(model, users, user, scratch, marks, found.numbers[user], found.scores[user])
        found.counts[user] = count
        _describe(model, scratch, found.numbers[user, :count], found.vectors[user], found.features[user])
        if count:
            _trace(model, users, user, positions, scratch, ledger, found.because[user, :count])
        for i in range(marks):
            scratch.rows[scratch.marked[i], :] = 0.0
        for i in range(count):
            item = found.numbers[user, i]
            scratch.chosen[item] = 0
            scratch.slots[item] = item % TRASH


@compiled
def share_positions(ages_s: Any, positions: Any) -> None:
    """Number the history from 0 for the newest; what was touched at the same moment shares the mean position."""
    first = 0
    for i in range(len(ages_s)):
        if i + 1 == len(ages_s) or ages_s[i + 1] != ages_s[i]:
            positions[first : i + 1] = np.float32(0.5) * np.float32(first + i)
            first = i + 1


@compiled
def _bar(users: Any, user: Any, scratch: Any) -> Any:
    """Mark what may not come back; give how many items are marked."""
    rows = scratch.rows
    marked = scratch.marked
    visits = rows.shape[1] - 1
    marks = 0
    if not users.keep_history[user]:
        for i in range(users.starts[user], users.starts[user + 1]):
            item = users.history[i]
            if item >= 0 and rows[item, visits] == 0.0:
                rows[item, visits] = _BARRED
                marked[marks] = item
                marks += 1
    for i in range(users.barred_starts[user], users.barred_starts[user + 1]):
        item = users.barred[i]
        if item >= 0 and rows[item, visits] == 0.0:
            rows[item, visits] = _BARRED
            marked[marks] = item
            marks += 1
    return marks


@compiled
def _pull(parameters: Any, strength: Any, index: Any, shared: Any, gap_s: Any) -> Any:
    """Give the weight of a history item for one source; 0 beyond what the source looks at or can still hear."""
    position = shared if parameters[TIES_SHARE] else np.float32(index)
    halvings = position * parameters[DECAY_BY_POSITION]
    if index >= parameters[MAX_HISTORY] or halvings > FAINT:
        return np.float32(0.0)
    floor = parameters[GAP_FLOOR]
    nearness = floor + (np.float32(1.0) - floor) * np.exp2(-gap_s * parameters[DECAY_BY_GAP])
    return strength * parameters[SCALE] * np.exp2(-halvings) * nearness


@compiled
def _row(tables: Any, source: Any, row: Any) -> Any:
    """Give where a row begins and ends, and its table's indices and weights, the latter as both types."""
    indptr = carray(_pointer(tables[source, INDPTR]), tables[source, ROWS] + 1, np.int64)
    first = indptr[row]
    last = indptr[row + 1]
    indices = carray(_pointer(tables[source, INDICES]), last, np.int32)
    singles = carray(_pointer(tables[source, WEIGHTS]), last, np.float32)
    halves = carray(_pointer(tables[source, WEIGHTS]), last, np.uint16)
    return first, last, indices, singles, halves


@compiled
def _accumulate(model: Any, users: Any, user: Any, positions: Any, scratch: Any, marks: Any, vector: Any) -> Any:
    """Add up the rows of the history, source by source, and its factors; give marks and the rows that were there."""
    tables = model.tables
    sources = tables.shape[0]
    begin = users.starts[user]
    vector[:] = 0.0
    known = 0
    for i in range(begin, users.starts[user + 1]):
        row = users.history[i]
        if row < 0:
            continue
        gap_s = users.ages_s[i] - users.ages_s[begin]
        spoke = False
        for source in range(sources):
            pull = _pull(model.parameters[source], users.strengths[i], i - begin, positions[i], gap_s)
            if pull == 0.0 or not users.reads[user, source]:
                continue
            if row < tables[source, ROWS]:
                marks, entries = _add_row(model, source, row, pull, scratch.rows, scratch.marked, marks)
                spoke = spoke or entries > 0
            if source == model.overlay_source and model.heads[row] >= 0:
                marks = _add_edges(model, row, pull, scratch.rows, scratch.marked, marks)
                spoke = True
        known += spoke
        pull = _pull(model.parameters[sources], users.strengths[i], i - begin, positions[i], gap_s)
        if row < model.factors[FACTOR_ROWS] and pull != 0.0:
            fold_in = carray(_pointer(model.factors[FOLD_IN]), (model.factors[FACTOR_ROWS], len(vector)), np.float32)
            for d in range(len(vector)):
                vector[d] += pull * fold_in[row, d]
    return marks, known


@compiled
def _add_row(model: Any, source: Any, row: Any, pull: Any, rows: Any, marked: Any, marks: Any) -> Any:
    """Add a table's row to the items' rows; give the marks then, and how many entries the row has."""
    half_values = model.half_values
    half = model.tables[source, HALF]
    visits = np.uintp(rows.shape[1] - 1)
    column = np.uintp(source)
    mark = np.uintp(marks)
    first, last, indices, singles, halves = _row(model.tables, source, row)
    for j in range(np.uintp(first), np.uintp(last)):
        item = np.uintp(indices[j])
        seen = rows[item, visits]
        rows[item, visits] = seen + np.float32(1.0)
        marked[mark] = item
        mark += np.uintp(seen == 0.0)
        rows[item, column] += pull * (half_values[halves[j]] if half else singles[j])
    return np.int64(mark), last - first


@compiled
def _add_edges(model: Any, row: Any, pull: Any, rows: Any, marked: Any, marks: Any) -> Any:
    """Add a row of the overlay to the items' rows; give the marks then."""
    source = model.overlay_source
    next_edges = model.next_edges
    targets = model.targets
    weights = model.edge_weights
    visits = rows.shape[1] - 1
    edge = model.heads[row]
    while edge >= 0:
        item = np.uintp(targets[edge])
        seen = rows[item, visits]
        rows[item, visits] = seen + np.float32(1.0)
        marked[marks] = item
        marks += seen == 0.0
        rows[item, source] += pull * weights[edge]
        edge = next_edges[edge]
    return marks


@compiled
def _select(model: Any, users: Any, user: Any, scratch: Any, marks: Any, numbers: Any, scores: Any) -> Any:
    """Keep the best of the touched items, best first; give how many.

    The best fresh items get their places first; what they leave is everybody's. The heap's root is the worst of it.
    """
    limit = users.limits[user]
    chosen = scratch.chosen
    fresh = 0
    if model.fresh_from < len(model.keys):
        quota = np.int64(np.ceil(limit * model.fresh_share))
        fresh = _gather(model, users.source_weights[user], scratch, marks, model.fresh_from, quota, numbers, scores)
    fresh_numbers = numbers[:fresh].copy()
    fresh_scores = scores[:fresh].copy()
    for i in range(fresh):
        chosen[fresh_numbers[i]] = 1
    count = _gather(model, users.source_weights[user], scratch, marks, 0, limit - fresh, numbers, scores)
    keys = model.keys
    for i in range(fresh):
        sift_up(numbers, scores, keys, count, fresh_numbers[i], fresh_scores[i])
        count += 1
    unpack_heap(numbers, scores, keys, count)
    return count


@compiled
def _gather(
    model: Any, weights: Any, scratch: Any, marks: Any, first: Any, limit: Any, numbers: Any, scores: Any
) -> Any:
    """Make a heap of the best items with at least this number that are not chosen yet; give its size."""
    if limit <= 0:
        return 0
    available = model.available
    passing = model.passing
    keys = model.keys
    chosen = scratch.chosen
    rows = scratch.rows
    marked = scratch.marked
    sums = scratch.sums
    visits = rows.shape[1] - 1
    for i in range(marks):
        item = np.uintp(marked[i])
        score = np.float32(0.0)
        for source in range(len(weights)):
            score += weights[source] * rows[item, source]
        is_out = rows[item, visits] < 0.0 or not (available[item] and passing[item]) or item < first or chosen[item]
        sums[i] = np.float32(0.0) if is_out else score
    level = _level(sums, marks, limit)
    levels = sums.view(np.int32)
    count = 0
    for i in range(marks):  # the best for certain, who need no comparison
        if sums[i] > 0.0 and levels[i] >> _LEVEL > level:
            sift_up(numbers, scores, keys, count, np.uintp(marked[i]), sums[i])
            count += 1
    for i in range(marks):  # those of whom some belong to the best
        if sums[i] > 0.0 and levels[i] >> _LEVEL == level:
            item = np.uintp(marked[i])
            score = sums[i]
            if count < limit:
                sift_up(numbers, scores, keys, count, item, score)
                count += 1
            elif score > scores[0] or (score == scores[0] and keys[item] < keys[numbers[0]]):
                sift_down(numbers, scores, keys, count, item, score)
    return count


@compiled
def _level(sums: Any, marks: Any, limit: Any) -> Any:
    """Give the level to which the last of the best belongs: the bits of a positive number are ordered as it is."""
    levels = sums.view(np.int32)
    counts = np.zeros(1 << (31 - _LEVEL), np.int32)
    top = 0
    for i in range(marks):
        if sums[i] > 0.0:
            level = levels[i] >> _LEVEL
            counts[level] += 1
            top = max(top, level)
    above = 0
    for level in range(top, 0, -1):
        above += counts[level]
        if above >= limit:
            return level
    return 0


@compiled
def _describe(model: Any, scratch: Any, numbers: Any, vector: Any, features: Any) -> None:
    """Write the features of the chosen items and remember their places."""
    sources = model.tables.shape[0]
    columns = model.columns
    shape = (model.factors[FACTOR_ROWS], model.factors[DIMENSIONS])
    item_factors = carray(_pointer(model.factors[ITEM_FACTORS]), shape, np.float32)
    for place in range(len(numbers)):
        item = numbers[place]
        scratch.slots[item] = TRASH + place
        for source in range(sources):
            features[source, place] = scratch.rows[item, source]
        features[sources + 1, place] = _dot(item_factors[item], vector) if item < shape[0] else np.float32(0.0)
        for column in range(columns.shape[0]):
            features[sources + 2 + column, place] = columns[column, item] if item < columns.shape[1] else 0.0


@compiled_loosely
def _dot(left: Any, right: Any) -> Any:
    """Give the dot product; its sum may be taken in any order, so that it is vectorised."""
    dot = np.float32(0.0)
    for d in range(len(right)):
        dot += left[d] * right[d]
    return dot


@compiled
def _trace(model: Any, users: Any, user: Any, positions: Any, scratch: Any, ledger: Any, because: Any) -> None:
    """Find which history item gave most to each chosen item: the same rows again.

    Every entry is booked, without asking whether its item is chosen, at the item's slot in the ledger; the items that
    are not chosen share the first few slots, which nobody reads.
    """
    tables = model.tables
    begin = users.starts[user]
    size = TRASH + len(because)
    amounts = ledger.amounts[:size]
    best = ledger.best[:size]
    givers = ledger.givers[:size]
    amounts[:] = 0.0
    best[:] = 0.0
    givers[:] = -1
    for i in range(begin, users.starts[user + 1]):
        row = users.history[i]
        if row < 0:
            continue
        gap_s = users.ages_s[i] - users.ages_s[begin]
        gave = False
        for source in range(tables.shape[0]):
            pull = users.source_weights[user, source] * _pull(
                model.parameters[source], users.strengths[i], i - begin, positions[i], gap_s
            )
            if pull == 0.0 or not users.reads[user, source]:
                continue
            gave = True
            if row < tables[source, ROWS]:
                _book_row(model, source, row, pull, scratch.slots, amounts)
            if source == model.overlay_source and model.heads[row] >= 0:
                _book_edges(model, row, pull, scratch.slots, amounts)
        if gave:
            _close(amounts, best, givers, np.int32(i - begin))
    because[:] = givers[TRASH:]


@compiled
def _book_row(model: Any, source: Any, row: Any, pull: Any, slots: Any, amounts: Any) -> None:
    """Book what a history item gives through a table."""
    half_values = model.half_values
    half = model.tables[source, HALF]
    first, last, indices, singles, halves = _row(model.tables, source, row)
    for j in range(np.uintp(first), np.uintp(last)):
        slot = np.uintp(slots[np.uintp(indices[j])])
        amounts[slot] += pull * (half_values[halves[j]] if half else singles[j])


@compiled
def _book_edges(model: Any, row: Any, pull: Any, slots: Any, amounts: Any) -> None:
    """Book what a history item gives through the overlay."""
    edge = model.heads[row]
    while edge >= 0:
        amounts[np.uintp(slots[np.uintp(model.targets[edge])])] += pull * model.edge_weights[edge]
        edge = model.next_edges[edge]


@compiled
def _close(amounts: Any, best: Any, givers: Any, giver: Any) -> None:
    """Compare what one history item gave with the best so far, and begin the next account; vectorised."""
    for slot in range(len(amounts)):
        amount = amounts[slot]
        is_better = amount > best[slot]
        best[slot] = amount if is_better else best[slot]
        givers[slot] = giver if is_better else givers[slot]
        amounts[slot] = 0.0
