"""The REST gateway as the command sees it."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import orjson

from recommend_cli.datasets.files import Record
from recommend_cli.errors import CommandError

_TIMEOUT_S: Final = 60.0
# Every write carries its event's id or replaces a state, so it may be sent again.
_RETRIED: Final = frozenset({429, 502, 503, 504})
_TRIES: Final = 6
_FIRST_PAUSE_S: Final = 0.2
_PAGE: Final = 1_000
_ELEMENT: Final = re.compile(r"\[(\d+)\]\.?")


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One item of a list, with the reasons in the gateway's words."""

    item_type: str
    item_id: str
    title: str
    score: float
    attributes: Mapping[str, Any]
    reasons: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RecommendedList:
    """A list and what the gateway says about it."""

    items: Sequence[Recommendation]
    model_version: str
    strategy: str
    degraded: Sequence[str]

    @property
    def ids(self) -> tuple[str, ...]:
        """The items' ids, best first."""
        return tuple(item.item_id for item in self.items)


@dataclass(frozen=True, slots=True)
class Interaction:
    """Something a user did."""

    item_type: str
    item_id: str
    interaction_type: str
    value: float | None
    occurred_at: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that a bulk write refused, by its place."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a bulk write: `known` records changed nothing, or wait in the log."""

    new: int = 0
    known: int = 0
    refused: Sequence[Refused] = field(default_factory=tuple)


class GatewayError(CommandError):
    """The gateway refused a request; `errors` are those of its problem document."""

    def __init__(self, message: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class Gateway:
    """A few kept connections to one gateway; an async context manager. `transport` replaces the network."""

    def __init__(
        self, url: str, api_key: str, *, connections: int = 8, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=dict([authorization(api_key)]),
            timeout=_TIMEOUT_S,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def put_items(self, records: Sequence[Record]) -> Written:
        """Create or replace items; a refused one keeps no other back."""
        return await self._bulk("/api/v1/items/bulk", "items", records)

    async def append_interactions(self, records: Sequence[Record]) -> Written:
        """Add interactions; a refused one keeps no other back."""
        return await self._bulk("/api/v1/interactions/bulk", "interactions", records)

    async def append_interaction(self, record: Record) -> None:
        """Add one interaction.

        Raises:
            CommandError: It was refused.
        """
        await self._call("POST", "/api/v1/interactions", record)

    async def recommend(
        self,
        user_id: str,
        *,
        limit: int = 10,
        filters: Sequence[str] = (),
        explain: bool = False,
    ) -> RecommendedList:
        """Ask for a user's list."""
        query: dict[str, Any] = {"user_id": user_id, "limit": limit, "filter": list(filters)}
        if explain:
            query["explain"] = "true"
        return _list(await self._call("GET", "/api/recommendations", query=query))

    async def recommend_by_each(
        self, user_id: str, sources: Sequence[str], *, limit: int = 10
    ) -> Sequence[RecommendedList]:
        """Ask for a user's lists of each source alone, in the order of the sources.

        Raises:
            CommandError: One of them was refused.
        """
        requests = [{"user_id": user_id, "limit": limit, "weights": {source: 1.0}} for source in sources]
        answer = await self._call("POST", "/api/v1/recommendations/batch", {"requests": requests})
        refused = next((each for each in answer["results"] if "items" not in each), None)
        if refused is not None:
            raise GatewayError(str(refused.get("detail", refused)))
        return [_list(each) for each in answer["results"]]

    async def trending(self, *, limit: int = 10) -> RecommendedList:
        """Ask for what somebody sees of whom nothing is known."""
        return _list(await self._call("GET", "/api/recommendations", query={"limit": limit}))

    async def similar(
        self, item_type: str, item_id: str, *, limit: int = 10, filters: Sequence[str] = ()
    ) -> RecommendedList:
        """Ask for items like one."""
        query = {"item_type": item_type, "limit": limit, "filter": list(filters)}
        return _list(await self._call("GET", f"/api/v1/recommendations/item/{_quoted(item_id)}", query=query))

    async def item(self, item_type: str, item_id: str) -> Record:
        """Read an item."""
        return await self._call("GET", f"/api/v1/items/{_quoted(item_id)}", query={"item_type": item_type})

    async def knows(self, user_id: str, event_id: str) -> bool:
        """Tell whether an event is among the newest of a user."""
        query = {"limit": 10}
        page = await self._call("GET", f"/api/v1/interactions/user/{_quoted(user_id)}", query=query)
        return any(each["event_id"] == event_id for each in page["interactions"])

    async def history(self, user_id: str) -> AsyncIterator[Interaction]:
        """Read everything that a user did, newest first."""
        cursor = ""
        while True:
            query = {"limit": _PAGE, **({"cursor": cursor} if cursor else {})}
            page = await self._call("GET", f"/api/v1/interactions/user/{_quoted(user_id)}", query=query)
            for each in page["interactions"]:
                yield Interaction(
                    item_type=each["item_type"],
                    item_id=each["item_id"],
                    interaction_type=each["interaction_type"],
                    value=each["value"],
                    occurred_at=each["occurred_at"],
                )
            cursor = page["next_cursor"]
            if not cursor:
                return

    async def _bulk(self, path: str, name: str, records: Sequence[Record]) -> Written:
        try:
            document = await self._call("POST", path, {name: records})
        except GatewayError as error:
            refused = _all_refused(error, len(records))
            if not refused:
                raise
            return Written(refused=refused)
        errors = document["errors"]
        return Written(
            new=document["applied"],
            known=document["accepted"] - document["applied"],
            refused=[Refused(each["index"], _worded(each["field"], each["message"])) for each in errors],
        )

    async def _call(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make one call, again after a pause while the gateway is busy or away.

        Raises:
            CommandError: It refuses, or stays away.
        """
        content = orjson.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        pause_s = _FIRST_PAUSE_S
        for tries_left in reversed(range(_TRIES)):
            try:
                answer = await self._client.request(method, path, content=content, headers=headers, params=query)
            except httpx.TransportError as error:
                problem = GatewayError(f"The gateway cannot be reached: {error!r}")
            else:
                if answer.is_success:
                    document: dict[str, Any] = orjson.loads(answer.content)
                    return document
                problem = _problem(answer)
                if answer.status_code not in _RETRIED:
                    raise problem
            if tries_left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
        raise problem


def authorization(api_key: str) -> tuple[str, str]:
    """Give the header that shows a key."""
    return "Authorization", f"Bearer {api_key}"


def read_list(content: bytes) -> RecommendedList:
    """Read the body of an answer."""
    return _list(orjson.loads(content))


def _quoted(identifier: str) -> str:
    return quote(identifier, safe="")


def _list(document: Mapping[str, Any]) -> RecommendedList:
    return RecommendedList(
        items=[
            Recommendation(
                item_type=item["item_type"],
                item_id=item["item_id"],
                title=item["title"],
                score=item["score"],
                attributes=item["attributes"],
                reasons=item["reasons"],
            )
            for item in document["items"]
        ],
        model_version=document["model_version"],
        strategy=document["strategy"],
        degraded=document["degraded"],
    )


def _all_refused(error: GatewayError, count: int) -> list[Refused]:
    """Read which elements a problem speaks of, as "[0].user_id"; nothing when it is about the bulk as a whole.

    A problem names the first hundred only; the others were refused just as well.
    """
    reasons: dict[int, str] = {}
    for each in error.errors:
        match = _ELEMENT.match(each["field"])
        if match is None:
            return []
        reasons[int(match[1])] = _worded(each["field"][match.end() :], each["message"])
    if not reasons:
        return []
    return [Refused(index, reasons.get(index, "refused, as its whole batch was")) for index in range(count)]


def _worded(name: str, message: str) -> str:
    return f"{name}: {message}" if name else message


def _problem(answer: httpx.Response) -> GatewayError:
    """Read a problem document; anything else is shown as it is."""
    try:
        document = orjson.loads(answer.content)
        return GatewayError(str(document["detail"]), document.get("errors", ()))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return GatewayError(f"The gateway answered {answer.status_code}: {answer.text[:200]}")
