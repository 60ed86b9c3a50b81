"""The source `nearest`: where the tables say too little, items near to the mean of what was touched last."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from servicekit.arrays import Floats, Ints, Keys
from vector_search.domain.dense import Neighbours
from vector_search.domain.model import NEAREST
from vector_search.domain.retrieval import Candidates, Retriever, UserQuery

WELL_KNOWN = 10
"""A history with so many items that the tables know needs no help, unless a filter leaves too little."""
_LOOKED_AT = 50  # how many history items make the mean
_HALF_LIFE_ITEMS = 5.0


def wants_nearest(query: UserQuery, candidates: Candidates) -> bool:
    """Tell whether the dense index should fill a list up."""
    if len(candidates.keys) >= query.limit or not len(query.history_keys):
        return False
    if query.source_weights is not None and not query.source_weights.get(NEAREST):
        return False
    return candidates.known < WELL_KNOWN or bool(query.conditions)


@dataclass(frozen=True, slots=True)
class Taste:
    """What a history with vectors is like.

    Args:
        places: int64[M], the places of its liked items that have one.
        pulls: float32[M, dimensions], their vectors by how much they count.
    """

    places: Keys
    pulls: Floats

    @classmethod
    def of(cls, query: UserQuery, stored: Mapping[int, Floats]) -> "Taste | None":
        """Give that of the newest items; None when none of them is liked and stored, or they cancel out."""
        places = [
            place
            for place, key in enumerate(query.history_keys[:_LOOKED_AT].tolist())
            if key in stored and query.strengths[place] > 0
        ]
        if not places:
            return None
        counts = query.strengths[places] * np.exp2(-np.array(places, np.float32) / np.float32(_HALF_LIFE_ITEMS))
        pulls = counts[:, np.newaxis] * np.stack([stored[key] for key in query.history_keys[places].tolist()])
        taste = cls(np.array(places, np.int64), pulls.astype(np.float32))
        return taste if taste.length > 0 else None

    @property
    def length(self) -> float:
        """How long the sum of all is."""
        return float(np.linalg.norm(self.pulls.sum(axis=0)))

    @property
    def mean(self) -> Floats:
        """float32[dimensions], of length one: the decayed mean, what the dense index is asked for."""
        direction: Floats = (self.pulls.sum(axis=0) / np.float32(self.length)).astype(np.float32)
        return direction

    def givers(self, vectors: Floats) -> Ints:
        """Give for each of float32[N, dimensions] the place of the history item that is most alike; -1: none is."""
        likeness = self.pulls @ vectors.T
        places = self.places[likeness.argmax(axis=0)]
        givers: Ints = np.where(likeness.max(axis=0) > 0.0, places, -1).astype(np.int32)
        return givers


def add_nearest(
    retriever: Retriever, query: UserQuery, candidates: Candidates, found: Neighbours, givers: Mapping[int, int]
) -> Candidates:
    """Join what the dense index found to the candidates, best first by the sum with the new share.

    `givers` holds the place in the history of the item that is most like a found one.
    """
    similarities = np.maximum(found.scores, 0.0)
    row = candidates.version.feature_names.index(NEAREST)
    weight = 1.0 if query.source_weights is None else query.source_weights[NEAREST]
    keys = np.concatenate([candidates.keys, np.setdiff1d(found.keys, candidates.keys)])
    count, old = len(keys), len(candidates.keys)
    features = np.zeros((len(candidates.features), count), np.float32)
    features[:, :old] = candidates.features
    features[row + 1 :, old:] = retriever.describe(keys[old:], candidates.vector)
    order = np.argsort(found.keys)
    places = np.searchsorted(found.keys[order], keys)
    places = np.minimum(places, max(len(order) - 1, 0))
    if len(order):
        same = found.keys[order][places] == keys
        features[row] = np.where(same, similarities[order][places], 0.0)
    scores = np.zeros(count, np.float32)
    scores[:old] = candidates.scores
    scores += np.float32(weight) * features[row]
    because = np.array([*candidates.because.tolist(), *(givers.get(key, -1) for key in keys[old:].tolist())], np.int32)
    best = np.lexsort((keys, -scores))[: query.limit]
    return replace(candidates, keys=keys[best], scores=scores[best], features=features[:, best], because=because[best])
