"""Searches the dense index for what may be recommended now, which the catalogue knows better than the payloads."""

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.filters import Filter
from vector_search.domain.catalogue import Catalogue
from vector_search.domain.dense import MAX_LIMIT, DenseIndex, Neighbours, nothing_near

_NO_KEYS: Keys = np.empty(0, np.int64)


async def search_open(
    index: DenseIndex,
    catalogue: Catalogue,
    vector: Floats,
    *,
    limit: int,
    conditions: Filter = (),
    exclude: Keys = _NO_KEYS,
    exact: bool = False,
) -> Neighbours:
    """Give the nearest items that are there, not hidden, within their window and pass the filter.

    Asks for more when what was found may not be recommended.
    """
    asked = min(limit + 16, MAX_LIMIT)
    while True:
        (found,) = await index.search(
            vector[None], limit=asked, conditions=conditions, exclude=[exclude] if len(exclude) else (), exact=exact
        )
        admitted = catalogue.admitted(found.keys, conditions)
        if np.count_nonzero(admitted) >= limit or len(found.keys) < asked or asked == MAX_LIMIT:
            break
        asked = min(4 * asked, MAX_LIMIT)
    if not len(found.keys):
        return nothing_near()
    return Neighbours(found.keys[admitted][:limit], found.scores[admitted][:limit])
