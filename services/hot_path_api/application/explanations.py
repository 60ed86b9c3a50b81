"""Says in full why items are in a list: every history item, source and path that gave to their scores."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np

from hot_path_api.application.selector import Selector
from hot_path_api.domain.candidates import SourceQuery
from hot_path_api.domain.ports import Contribution, Graph, VectorIndex
from hot_path_api.domain.recommendations import Reason, ReasonCode
from servicekit.errors import ServiceError

_PER_ITEM = 3


class Explanations:
    """Asks the index and the graph at once; what one of them does not answer is left out."""

    def __init__(self, index: VectorIndex, graph: Graph, selector: Selector) -> None:
        self._index = index
        self._graph = graph
        self._selector = selector

    async def reasons(
        self, query: SourceQuery, keys: Sequence[int], *, timeout_s: float
    ) -> tuple[dict[int, list[Reason]], list[ServiceError]]:
        """Give each item's reasons, largest share first, and the errors of those who did not answer.

        What was disliked is no reason to show anything.
        """
        wanted, liked = np.array(keys, np.int64), query.liked()
        if not len(liked.history_keys):
            return {}, []
        contributions, errors = await _both(
            self._index.explain(liked, wanted, limit=_PER_ITEM, timeout_s=timeout_s),
            self._graph.explain(query.tenant, liked.history_keys, wanted, limit=_PER_ITEM, timeout_s=timeout_s),
        )
        history = list(dict.fromkeys(each.history_key for each in contributions))
        items, unread = await self._selector.items(history, timeout_s=timeout_s)
        if unread is not None:
            errors = [*errors, unread]
        evidence = dict(zip(history, items, strict=True))
        reasons: dict[int, list[Reason]] = {}
        for each in contributions:
            reasons.setdefault(each.item_key, []).append(
                Reason(
                    ReasonCode.RELATED_THROUGH if each.meta_path else ReasonCode.BECAUSE_YOU_INTERACTED,
                    item=evidence[each.history_key],
                    source=each.source,
                    share=each.share,
                    meta_path=each.meta_path,
                    through=each.through,
                )
            )
        return reasons, errors


async def _both(
    *asked: Coroutine[Any, Any, Sequence[Contribution]],
) -> tuple[list[Contribution], list[ServiceError]]:
    contributions: list[Contribution] = []
    errors: list[ServiceError] = []
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, ServiceError):
            errors.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            contributions += answer
    return contributions, errors
