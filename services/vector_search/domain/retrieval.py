"""Turns users' histories into candidates by one call of the kernel for each filter in a batch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats, Ints, Keys
from servicekit.filters import Filter
from vector_search.domain.catalogue import Catalogue
from vector_search.domain.kernel import DIMENSIONS, TRASH, Found, Model, Scratch, Users, retrieve, share_positions
from vector_search.domain.model import CONTENT, ModelVersion
from vector_search.domain.overlay import Overlay

FRESH_SHARE = 0.1
"""The part of a list that new items get at least, once a model is there that does not know them."""

# Through it alone new items are found; a model that wants no more of it than a feature must not shut them out.
_LEAST_CONTENT_WEIGHT = 1e-3
_HALF_VALUES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
_LEAST_PART = 8  # users, about a millisecond: for less, waking another thread does not pay
_NO_KEYS: Keys = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class UserQuery:
    """A user's history, last touched first, and what is wanted."""

    history_keys: Keys
    strengths: Floats
    ages_s: Floats
    limit: int
    exclude_keys: Keys = field(default_factory=lambda: _NO_KEYS)
    conditions: Filter = ()
    source_weights: Mapping[str, float] | None = None
    """By source; a source not named is left out. None: the model's own."""
    include_history: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """A user's candidates, best first; ties by key."""

    keys: Keys
    scores: Floats
    """[n]: the weighted sums of the shares."""
    features: Floats
    """[version.feature_names, n]."""
    because: Ints
    """[n]: the place in the history of the item that gave most, -1: none gave."""
    vector: Floats
    """[dimensions]: the user's factors."""
    known: int
    """How many items of the history any table has a row for."""
    version: ModelVersion
    """What answered."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedBatch:
    """Queries of one filter with the arrays they read, taken at one moment."""

    places: tuple[int, ...]
    model: Model
    users: Users
    version: ModelVersion
    scratches: list[Scratch]
    """Those that no thread uses now."""

    def run(self) -> list[Candidates]:
        """Find the candidates, without the GIL; may run in any thread, beside others and beside changes."""
        found = _room(self.model, self.users)
        scratch = self._take_scratch()
        retrieve(self.model, self.users, scratch, found)
        self.scratches.append(scratch)
        return [self._candidates(found, user) for user in range(len(self.users.limits))]

    def _candidates(self, found: Found, user: int) -> Candidates:
        count = int(found.counts[user])
        return Candidates(
            keys=self.model.keys[found.numbers[user, :count]],
            scores=found.scores[user, :count],
            features=found.features[user, :, :count],
            because=found.because[user, :count],
            vector=found.vectors[user],
            known=int(found.known[user]),
            version=self.version,
        )

    def _take_scratch(self) -> Scratch:
        numbers = len(self.model.keys)
        with suppress(IndexError):  # none is free
            while True:
                scratch = self.scratches.pop()
                if len(scratch.chosen) == numbers:
                    return scratch
        width = 1 << len(self.model.tables).bit_length()  # a power of two above the sources: a row fills whole lines
        return Scratch(
            rows=np.zeros((numbers, width), np.float32),
            chosen=np.zeros(numbers, np.uint8),
            slots=np.arange(numbers, dtype=np.int32) % TRASH,
            marked=np.zeros(numbers + 1, np.int32),
            sums=np.zeros(numbers + 1, np.float32),
        )


class Retriever:
    """Answers from one model version with its catalogue and overlay."""

    def __init__(self, version: ModelVersion, catalogue: Catalogue, overlay: Overlay) -> None:
        self.version = version
        self._catalogue = catalogue
        self._overlay = overlay
        self._names = tuple(source.name for source in version.sources)
        self._weights = np.array([source.weight for source in version.sources], np.float32)
        content = version.content_source
        self._weights[content] = max(self._weights[content], _LEAST_CONTENT_WEIGHT)
        self._all = np.ones(len(self._names), np.uint8)
        self._tables = np.array([source.table.as_row() for source in version.sources], np.int64)
        self._parameters = np.array(
            [*(source.parameters.as_row() for source in version.sources), version.factors.parameters.as_row()],
            np.float32,
        )
        fold_in, factors = version.factors.fold_in, version.factors.items
        self._factors = np.array([fold_in.ctypes.data, factors.ctypes.data, *factors.shape], np.int64)
        self._columns = version.column_matrix()
        self._scratches: list[Scratch] = []

    def prepare(self, queries: Sequence[UserQuery], *, threads: int = 1) -> list[PreparedBatch]:
        """Take what queries need, in a batch or more for each filter, so many as threads can share with profit.

        Only in the thread that changes catalogue and overlay. Limits must be positive.
        """
        groups: dict[Filter, list[int]] = {}
        for place, query in enumerate(queries):
            groups.setdefault(query.conditions, []).append(place)
        batches = []
        for conditions, places in groups.items():
            model = self._snapshot(conditions)
            count = min(threads, max(1, len(places) // _LEAST_PART))
            for first in range(count):
                part = places[first::count]
                users = self._users([queries[place] for place in part])
                batches.append(PreparedBatch(tuple(part), model, users, self.version, self._scratches))
        return batches

    def retrieve(self, queries: Sequence[UserQuery]) -> list[Candidates]:
        """Answer queries in their order, in this thread."""
        batches = self.prepare(queries)
        return in_order(batches, [batch.run() for batch in batches])

    def describe(self, keys: Keys, vector: Floats) -> Floats:
        """Give the rows `factors` and item columns of a features matrix for some items."""
        rows = np.zeros((1 + len(self._columns), len(keys)), np.float32)
        numbers = self._catalogue.numbering.find(keys)
        known = (numbers >= 0) & (numbers < self._catalogue.version_count)
        if len(self.version.factors.items):
            rows[0, known] = self.version.factors.items[numbers[known]] @ vector
        rows[1:, known] = self._columns[:, numbers[known]]
        return rows

    def rows(self, query: UserQuery) -> Iterator[tuple[int, str, Keys, Floats]]:
        """Give for each history item and source the items it speaks for and the share that each gets from it."""
        numbers = self._catalogue.numbering.find(query.history_keys)
        shared = np.empty(len(numbers), np.float32)
        share_positions(np.array(query.ages_s, np.float32), shared)
        keys = self._catalogue.numbering.keys
        for place, (number, history_key) in enumerate(zip(numbers.tolist(), query.history_keys.tolist(), strict=True)):
            gap_s = float(query.ages_s[place] - query.ages_s[0])
            for source in self.version.sources:
                pull = source.parameters.pull(float(query.strengths[place]), place, float(shared[place]), gap_s)
                if number < 0 or pull == 0.0:
                    continue
                neighbours, weights = source.table.row(number)
                yield history_key, source.name, keys[neighbours], np.float32(pull) * weights
                if source.name == CONTENT:
                    neighbours, weights = self._overlay.row(number)
                    yield history_key, source.name, keys[neighbours], np.float32(pull) * weights

    def weights_of(self, query: UserQuery) -> Floats:
        """Give the multiplier of each source for a query."""
        if query.source_weights is None:
            return self._weights
        return np.array([query.source_weights.get(name, 0.0) for name in self._names], np.float32)

    def _reads_of(self, query: UserQuery) -> npt.NDArray[np.uint8]:
        """Tell which sources are read: those the caller gives a weight, else all, even if only for the features."""
        if query.source_weights is None:
            return self._all
        return np.asarray(self.weights_of(query) != 0.0, np.uint8)

    def _users(self, queries: Sequence[UserQuery]) -> Users:
        find = self._catalogue.numbering.find
        return Users(
            starts=_starts([len(query.history_keys) for query in queries]),
            history=find(np.concatenate([query.history_keys for query in queries])),
            strengths=np.concatenate([query.strengths for query in queries]).astype(np.float32, copy=False),
            ages_s=np.concatenate([query.ages_s for query in queries]).astype(np.float32, copy=False),
            barred_starts=_starts([len(query.exclude_keys) for query in queries]),
            barred=find(np.concatenate([query.exclude_keys for query in queries])),
            keep_history=np.array([query.include_history for query in queries], np.uint8),
            source_weights=np.stack([self.weights_of(query) for query in queries]),
            reads=np.stack([self._reads_of(query) for query in queries]),
            limits=np.array([query.limit for query in queries], np.int64),
        )

    def _snapshot(self, conditions: Filter) -> Model:
        edges = self._overlay.edges
        keys = self._catalogue.numbering.keys
        return Model(
            tables=self._tables,
            parameters=self._parameters,
            half_values=_HALF_VALUES,
            overlay_source=self.version.content_source,
            heads=edges.heads,
            next_edges=edges.next_edges,
            targets=edges.targets,
            edge_weights=edges.weights,
            factors=self._factors,
            columns=self._columns,
            keys=keys,
            available=self._catalogue.available(),
            passing=self._catalogue.passing(conditions),
            fresh_from=self._catalogue.version_count if self.version.name else len(keys),
            fresh_share=FRESH_SHARE,
        )


def in_order(batches: Sequence[PreparedBatch], answers: Iterable[Sequence[Candidates]]) -> list[Candidates]:
    """Give what the batches answered in the order of the queries."""
    by_place: dict[int, Candidates] = {}
    for batch, candidates in zip(batches, answers, strict=True):
        by_place.update(zip(batch.places, candidates, strict=True))
    return [by_place[place] for place in range(len(by_place))]


def _starts(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _room(model: Model, users: Users) -> Found:
    count, most = len(users.limits), int(users.limits.max())
    rows = len(model.tables) + 2 + len(model.columns)
    return Found(
        numbers=np.empty((count, most), np.int32),
        scores=np.empty((count, most), np.float32),
        features=np.zeros((count, rows, most), np.float32),
        because=np.empty((count, most), np.int32),
        counts=np.zeros(count, np.int64),
        known=np.zeros(count, np.int64),
        vectors=np.zeros((count, int(model.factors[DIMENSIONS])), np.float32),
    )
