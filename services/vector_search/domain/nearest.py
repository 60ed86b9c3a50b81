"""The source `nearest`: where the tables say too little, items near to the mean of what was touched last."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from servicekit.arrays import Floats
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


def wanted_vector(query: UserQuery, stored: Mapping[int, Floats]) -> Floats | None:
    """Give the decayed mean of the vectors of what the user took to; None when none is stored."""
    total: Floats | None = None
    for position, key in enumerate(query.history_keys[:_LOOKED_AT].tolist()):
        strength = float(query.strengths[position])
        if key in stored and strength > 0:
            part = strength * np.float32(0.5 ** (position / _HALF_LIFE_ITEMS)) * stored[key]
            total = part if total is None else total + part
    if total is None:
        return None
    length = float(np.linalg.norm(total))
    return (total / length).astype(np.float32) if length > 0 else None


def add_nearest(retriever: Retriever, query: UserQuery, candidates: Candidates, found: Neighbours) -> Candidates:
    """Join what the dense index found to the candidates, best first by the sum with the new share."""
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
    because = np.full(count, -1, np.int32)
    because[:old] = candidates.because
    best = np.lexsort((keys, -scores))[: query.limit]
    return replace(candidates, keys=keys[best], scores=scores[best], features=features[:, best], because=because[best])
