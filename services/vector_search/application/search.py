"""Searches the dense index for what may be recommended now, which the catalogue knows better than the payloads."""

from collections.abc import Sequence

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.filters import Filter
from vector_search.domain.catalogue import Catalogue
from vector_search.domain.dense import MAX_LIMIT, DenseIndex, Neighbours, nothing_near


async def search_open(
    index: DenseIndex,
    catalogue: Catalogue,
    vectors: Floats,
    *,
    limit: int,
    conditions: Filter = (),
    exclude: Sequence[Keys] = (),
    exact: bool = False,
) -> list[Neighbours]:
    """Give for each row of float32[n, dimensions] the nearest items that are there, shown, open and pass the filter.

    All rows are one batch. Asks for more where what was found may not be recommended.

    Raises:
        InvalidArgumentError: As `DenseIndex.search`.
    """
    found = [nothing_near()] * len(vectors)
    places = list(range(len(vectors)))
    asked = min(limit + 16, MAX_LIMIT)
    while places:
        answers = await index.search(
            vectors[places],
            limit=asked,
            conditions=conditions,
            exclude=[exclude[place] for place in places] if exclude else (),
            exact=exact,
        )
        short = []
        for place, answer in zip(places, answers, strict=True):
            admitted = catalogue.admitted(answer.keys, conditions) if len(answer.keys) else np.empty(0, np.bool_)
            if np.count_nonzero(admitted) < limit and len(answer.keys) == asked < MAX_LIMIT:
                short.append(place)
            else:
                found[place] = Neighbours(answer.keys[admitted][:limit], answer.scores[admitted][:limit])
        places = short
        asked = min(4 * asked, MAX_LIMIT)
    return found
