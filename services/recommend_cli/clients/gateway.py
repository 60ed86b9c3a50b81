"""The REST gateway as the command sees it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import httpx
import orjson

from recommend_cli.errors import CommandError

_TIMEOUT_S: Final = 60.0
_RETRIED: Final = frozenset({429, 502, 503, 504})
_TRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a list, with the reasons as the gateway words them."""

    item_type: str
    item_id: str
    title: str
    score: float
    reasons: Sequence[Mapping[str, Any]] = ()
    sources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecommendedList:
    """A list and what the gateway says about it."""

    items: Sequence[Recommendation]
    model_version: str
    degraded: Sequence[str]

    @property
    def ids(self) -> tuple[str, ...]:
        """The items' ids, best first."""
        return tuple(item.item_id for item in self.items)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that a bulk write refused."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a bulk write."""

    new: int
    known: int
    refused: Sequence[Refused]


class Gateway:
    """A few connections to one gateway. Entering and leaving the context opens and closes them."""

    def __init__(self, url: str, api_key: str, *, connections: int = 8) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"X-API-Key": api_key},
            timeout=_TIMEOUT_S,
            limits=httpx.Limits(max_connections=connections),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)
