"""The REST gateway as the command sees it."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
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
    """The gateway refused a request, or stays away: `status` is 0 then; `errors` are those of its problem document."""

    def __init__(self, message: str, errors: Sequence[Mapping[str, str]] = (), *, status: int = 0) -> None:
        super().__init__(message)
        self.errors = errors
        self.status = status


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
        item_type: str | None = None,
        filters: Sequence[str] = (),
        explain: bool = False,
    ) -> RecommendedList:
        """Ask for a user's list, of all types of items or of one."""
        query: dict[str, Any] = {"user_id": user_id, "limit": limit, "filter": list(filters)}
        if item_type is not None:
            query["item_type"] = item_type
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

    async def first_item_type(self) -> str:
        """Give the first of the catalogue's item types by name, often the only one; empty for an empty catalogue."""
        page = await self._call("GET", "/api/v1/items", query={"limit": 1})
        return next((str(item["item_type"]) for item in page["items"]), "")

    async def knows(self, user_id: str, event_id: str) -> bool:
        """Tell whether an event is among the newest of a user."""
        query = {"limit": 10}
        page = await self._call("GET", f"/api/v1/interactions/user/{_quoted(user_id)}", query=query)
        return any(each["event_id"] == event_id for each in page["interactions"])

    async def latest(self, user_id: str, count: int) -> list[Interaction]:
        """Read what a user did last, newest first."""
        interactions, _ = await self._history_page(user_id, {"limit": count})
        return interactions

    async def history(self, user_id: str) -> AsyncIterator[Interaction]:
        """Read everything that a user did, newest first."""
        cursor = ""
        while True:
            query = {"limit": _PAGE, **({"cursor": cursor} if cursor else {})}
            interactions, cursor = await self._history_page(user_id, query)
            for each in interactions:
                yield each
            if not cursor:
                return

    async def _history_page(self, user_id: str, query: Mapping[str, Any]) -> tuple[list[Interaction], str]:
        """Read a page, and where the next one begins; empty after the last."""
        page = await self._call("GET", f"/api/v1/interactions/user/{_quoted(user_id)}", query=query)
        interactions = [
            Interaction(
                item_type=each["item_type"],
                item_id=each["item_id"],
                interaction_type=each["interaction_type"],
                value=each["value"],
                occurred_at=each["occurred_at"],
            )
            for each in page["interactions"]
        ]
        return interactions, page["next_cursor"] or ""

    async def _bulk(self, path: str, name: str, records: Sequence[Record]) -> Written:
        try:
            document = await self._call("POST", path, {name: records})
        except GatewayError as error:
            if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return await self._halved(path, name, records, error)
            named = _named(error, len(records))
            if not named:
                raise
            # All were refused, and a problem names the first hundred only: ask about the others again.
            others = [at for at in range(len(records)) if at not in named]
            rest = await self._bulk(path, name, [records[at] for at in others]) if others else Written()
            refused = [Refused(at, reason) for at, reason in named.items()]
            return Written(rest.new, rest.known, refused + _moved(rest.refused, others))
        errors = document["errors"]
        return Written(
            new=document["applied"],
            known=document["accepted"] - document["applied"],
            refused=[Refused(each["index"], _worded(each["field"], each["message"])) for each in errors],
        )

    async def _halved(self, path: str, name: str, records: Sequence[Record], error: GatewayError) -> Written:
        """Send the halves of a bulk that was too large, one after the other, down to the record that is."""
        if len(records) == 1:
            return Written(refused=[Refused(0, error.message)])
        middle = len(records) // 2
        first = await self._bulk(path, name, records[:middle])
        second = await self._bulk(path, name, records[middle:])
        refused = [*first.refused, *_moved(second.refused, range(middle, len(records)))]
        return Written(first.new + second.new, first.known + second.known, refused)

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


def _named(error: GatewayError, count: int) -> dict[int, str]:
    """Read of which elements a problem speaks, as "[0].user_id"; nothing when it is about the bulk as a whole."""
    reasons: dict[int, str] = {}
    for each in error.errors:
        match = _ELEMENT.match(each["field"])
        if match is None or int(match[1]) >= count:
            return {}
        reasons[int(match[1])] = _worded(each["field"][match.end() :], each["message"])
    return reasons


def _moved(refused: Sequence[Refused], places: Sequence[int]) -> list[Refused]:
    """Give the places in a bulk of what a part of it, the elements at `places`, had refused."""
    return [Refused(places[each.index], each.reason) for each in refused]


def _worded(name: str, message: str) -> str:
    return f"{name}: {message}" if name else message


def _problem(answer: httpx.Response) -> GatewayError:
    """Read a problem document; anything else is shown as it is."""
    status = answer.status_code
    try:
        document = orjson.loads(answer.content)
        return GatewayError(str(document["detail"]), document.get("errors", ()), status=status)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return GatewayError(f"The gateway answered {status}: {answer.text[:200]}", status=status)
