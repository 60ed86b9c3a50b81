"""Says of chosen items what each source gave to them, and why they are there."""

from collections.abc import Mapping, Sequence

import numpy as np

from hot_path_api.application.explanations import Explanations
from hot_path_api.application.selector import Selector
from hot_path_api.domain.candidates import TRENDING, Candidates, Places, SourceQuery
from hot_path_api.domain.items import Item
from hot_path_api.domain.recommendations import Reason, ReasonCode, RecommendedItem
from servicekit.arrays import Floats
from servicekit.errors import ServiceError


class Descriptions:
    """Turns places in a pool into items with scores, shares and reasons."""

    def __init__(self, selector: Selector, explanations: Explanations) -> None:
        self._selector = selector
        self._explanations = explanations

    async def describe(
        self,
        places: Sequence[int],
        items: Sequence[Item],
        *,
        pool: Candidates,
        scores: Floats,
        question: SourceQuery,
        popular: ReasonCode,
        explain: bool,
        timeout_s: float,
    ) -> tuple[list[RecommendedItem], list[ServiceError]]:
        """Describe items.

        Args:
            places: Where they stand in the pool.
            items: The items at these places.
            pool: All candidates.
            scores: float32[N] of the pool.
            question: Whose history the pool was made from.
            popular: Why an item is there that the history has nothing to do with.
            explain: Whether every contribution is asked for.
            timeout_s: How long each look-up may take.

        Returns:
            The items, and the errors of those who could not explain them.
        """
        if not places:
            return [], []
        explained: Mapping[int, Sequence[Reason]] = {}
        errors: list[ServiceError] = []
        if explain and len(question.history_keys):
            explained, errors = await self._explanations.reasons(
                question, [item.key for item in items], timeout_s=timeout_s
            )
        picked = np.array(places, np.intp)
        causes = await self._causes(picked, pool, question, timeout_s)
        names = [name if name in pool.shares else "" for name in pool.names]
        shares = pool.features.take(picked, axis=1).T.astype(np.float64).round(6).tolist()
        told = scores.take(picked).astype(np.float64).round(6).tolist()
        without_cause, filling = (Reason(popular),), (Reason(ReasonCode.FALLBACK),)
        described = []
        for item, cause, score, row in zip(items, causes, told, shares, strict=True):
            sources = {name: share for name, share in zip(names, row, strict=True) if share and name}
            reasons = explained.get(item.key)
            if reasons is None and cause is not None:
                reasons = _because_of(cause)
            elif reasons is None:
                reasons = without_cause if TRENDING in sources else () if sources else filling
            described.append(RecommendedItem(item, score, sources, reasons))
        return described, errors

    async def _causes(
        self, places: Places, pool: Candidates, question: SourceQuery, timeout_s: float
    ) -> Sequence[Item | None]:
        """Look up for each place the history item that gave most of its score."""
        if not len(question.history_keys):
            return [None] * len(places)
        causes = pool.because.take(places)
        # What was disliked is no reason: -1 for it too.
        causes = np.where(question.history_weights.take(causes, mode="wrap") > 0.0, causes, -1)
        keys = question.history_keys.take(causes, mode="wrap").tolist()  # -1, which is nobody, reads the last one
        items, _ = await self._selector.items(keys, timeout_s=timeout_s)
        return [item if cause >= 0 else None for item, cause in zip(items, causes.tolist(), strict=True)]


def _because_of(cause: Item) -> Sequence[Reason]:
    """Give the reason that a history item is; it is the same for every list."""
    reasons: Sequence[Reason] | None = cause.derived.get("because")
    if reasons is None:
        reasons = cause.derived["because"] = (Reason(ReasonCode.BECAUSE_YOU_INTERACTED, item=cause),)
    return reasons
