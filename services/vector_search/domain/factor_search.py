"""Searches behaviour factors by dot product, comparing with every item.

Products have no neighbourhoods that a graph could follow (it finds .86 of the nearest ten where it finds .99 of cosine
neighbours), so any engine would compare with all of them; the factors are mapped here already, and the catalogue's
masks are the filters.
"""

import numpy as np

from servicekit.arrays import Floats
from servicekit.errors import InvalidArgumentError
from servicekit.filters import Filter
from vector_search.domain.catalogue import Catalogue
from vector_search.domain.dense import Neighbours, nothing_near
from vector_search.domain.model import ModelVersion


def search_factors(
    version: ModelVersion, catalogue: Catalogue, vector: Floats, *, limit: int, conditions: Filter = ()
) -> Neighbours:
    """Give the items of the version with the largest products, ties by key; nothing when it has no factors.

    Raises:
        InvalidArgumentError: The vector is not of the factors' size.
    """
    factors = version.factors.items
    if not len(factors):
        return nothing_near()
    if vector.shape != (factors.shape[1],):
        raise InvalidArgumentError(f"factors have {factors.shape[1]} numbers, not {vector.size}", field="vector")
    numbers = np.flatnonzero((catalogue.available() & catalogue.passing(conditions))[: len(factors)])
    scores = factors @ vector
    scores = scores[numbers]
    if len(scores) > limit:
        good = scores >= np.partition(scores, len(scores) - limit)[len(scores) - limit]
        numbers, scores = numbers[good], scores[good]
    keys = version.items.keys[numbers]
    best = np.lexsort((keys, -scores))[:limit]
    return Neighbours(keys[best], scores[best])
