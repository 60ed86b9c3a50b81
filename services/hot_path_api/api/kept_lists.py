"""Lists that are the same for everybody: written without a request id, so that they can be kept and given to others."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import orjson

from hot_path_api.api.rendering import items_json, list_json
from hot_path_api.application.pipeline import VARIANT
from hot_path_api.application.shared_answers import Made, SharedAnswers
from hot_path_api.application.similar import Page
from hot_path_api.domain.recommendations import RecommendationList, RecommendationQuery
from servicekit import metrics

_BREAK = b"\n"  # written JSON has none


@dataclass(frozen=True, slots=True)
class WrittenList:
    """A list as it is answered.

    Args:
        strategy: What filled it.
        mark: Stands for what it shows.
        rest: Its JSON without the opening brace and the request id.
        is_whole: Nothing was missing when it was made, and it shows something: others may be given it for a while.
        model_version: What made it; empty once it has been kept.
    """

    strategy: str
    mark: bytes
    rest: bytes
    is_whole: bool = True
    model_version: str = ""

    def body(self, request_id: str) -> bytes:
        """Give the JSON for a request."""
        return _opening(request_id) + self.rest

    def pack(self) -> bytes:
        """Give it as bytes; `unpack` makes it again."""
        return _BREAK.join((b"1" if self.is_whole else b"0", self.strategy.encode(), self.mark, self.rest))


class PublicLists:
    """Gives lists that are the same for everybody.

    Args:
        answers: Where they are kept; None where every list is made anew.
    """

    def __init__(self, answers: SharedAnswers | None) -> None:
        self._answers = answers

    async def get(
        self, cache: str, tenant: str, question: Callable[[], str], write: Callable[[], Awaitable[WrittenList]]
    ) -> WrittenList:
        """Give the list that answers a question, written now or a moment ago."""
        if self._answers is None:
            return await write()

        async def make() -> Made:
            written = await write()
            return Made(written.pack(), written.model_version, written.is_whole)

        packed, was_kept = await self._answers.get(cache, tenant, question(), make)
        written = unpack(packed)
        if was_kept:  # whoever makes a list counts it
            metrics.RECOMMENDATIONS.labels(VARIANT, written.strategy).inc()
        return written


def write_list(answer: RecommendationList, *, first_rank: int, next_cursor: str | None) -> WrittenList:
    """Write a list."""
    shown = items_json(answer.items, first_rank=first_rank)
    mark = blake2b(shown + answer.model_version.encode(), digest_size=12).hexdigest().encode()
    body = list_json(answer, first_rank=first_rank, next_cursor=next_cursor)
    rest = body.removeprefix(_opening(answer.request_id))
    is_whole = bool(answer.items) and not answer.degraded
    return WrittenList(answer.strategy, mark, rest, is_whole=is_whole, model_version=answer.model_version)


def unpack(packed: bytes) -> WrittenList:
    """Give a list that was packed."""
    is_whole, strategy, mark, rest = packed.split(_BREAK, 3)
    return WrittenList(strategy.decode(), mark, rest, is_whole=is_whole == b"1")


def question_of(query: RecommendationQuery) -> str:
    """Give everything that a list for nobody in particular depends on."""
    return repr(
        (
            query.limit,
            query.offset,
            query.filter,
            tuple(query.exclude),
            query.diversity,
            sorted(query.caps.items()),
            query.algorithm.value,
            query.weights and sorted(query.weights.items()),
            query.window,
            query.explain,
        )
    )


def similar_question_of(page: Page, item_key: int, weights: Mapping[str, float] | None) -> str:
    """Give everything that a list of similar items depends on."""
    return repr((item_key, page.limit, page.offset, page.filter, weights and sorted(weights.items())))


def _opening(request_id: str) -> bytes:
    return b'{"request_id":%b,' % orjson.dumps(request_id)
