"""Which history items made an item's score, through which source."""

from dataclasses import dataclass

import numpy as np

from servicekit.arrays import Keys
from vector_search.domain.retrieval import Retriever, UserQuery


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one history item gave to one item through one source."""

    item_key: int
    history_key: int
    source: str
    share: float


def explain(retriever: Retriever, query: UserQuery, keys: Keys, *, limit: int) -> list[Contribution]:
    """Give at most `limit` contributions for each of the items, in their order, the largest share first."""
    given: dict[int, list[Contribution]] = {key: [] for key in keys.tolist()}
    for history_key, source, neighbours, shares in retriever.rows(query):
        for place in np.flatnonzero(np.isin(neighbours, keys)).tolist():
            key, share = int(neighbours[place]), float(shares[place])
            given[key].append(Contribution(key, history_key, source, share))
    return [
        contribution
        for key in keys.tolist()
        for contribution in sorted(given[key], key=lambda each: -each.share)[:limit]
    ]
