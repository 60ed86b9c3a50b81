"""Says of chosen items what each source gave to them, and why they are there."""

from collections.abc import Mapping, Sequence

from hot_path_api.application.explanations import Explanations
from hot_path_api.application.selector import Selector
from hot_path_api.domain.candidates import TRENDING, SourceQuery
from hot_path_api.domain.evidence import Evidence
from hot_path_api.domain.items import Item
from hot_path_api.domain.recommendations import Reason, ReasonCode, RecommendedItem
from servicekit.errors import ServiceError


class Descriptions:
    """Gives items their scores, shares and reasons."""

    def __init__(self, selector: Selector, explanations: Explanations) -> None:
        self._selector = selector
        self._explanations = explanations

    async def describe(
        self,
        items: Sequence[Item],
        evidence: Evidence,
        *,
        question: SourceQuery,
        popular: ReasonCode,
        explain: bool,
        timeout_s: float,
    ) -> tuple[list[RecommendedItem], list[ServiceError]]:
        """Describe items.

        Args:
            items: The items.
            evidence: What is known of each.
            question: Whose history the pool was made from.
            popular: Why an item is there that the history has nothing to do with.
            explain: Whether every contribution is asked for.
            timeout_s: How long each look-up may take.

        Returns:
            The items, and the errors of those who could not explain them.
        """
        explained: Mapping[int, Sequence[Reason]] = {}
        errors: list[ServiceError] = []
        if explain and items and len(question.history_keys):
            explained, errors = await self._explanations.reasons(
                question, [item.key for item in items], timeout_s=timeout_s
            )
        keys = [key for key in evidence.causes if key is not None]
        found, unread = await self._selector.items(keys, timeout_s=timeout_s)
        if unread is not None:
            errors = [*errors, unread]
        causes = dict(zip(keys, found, strict=True))
        without_cause, filling = (Reason(popular),), (Reason(ReasonCode.FALLBACK),)
        described = []
        names = evidence.sources
        for item, score, shares, key in zip(items, evidence.scores, evidence.shares, evidence.causes, strict=True):
            sources = {name: share for name, share in zip(names, shares, strict=True) if share}
            reasons = explained.get(item.key)
            if reasons is None:
                cause = causes.get(key) if key is not None else None
                if cause is not None:
                    reasons = _because_of(cause)
                else:
                    reasons = without_cause if TRENDING in sources else () if sources else filling
            described.append(RecommendedItem(item, score, sources, reasons))
        return described, errors


def _because_of(cause: Item) -> Sequence[Reason]:
    """Give the reason that a history item is; it is the same for every list."""
    reasons: Sequence[Reason] | None = cause.derived.get("because")
    if reasons is None:
        reasons = cause.derived["because"] = (Reason(ReasonCode.BECAUSE_YOU_INTERACTED, item=cause),)
    return reasons
