"""Lists over REST: for a user, for a session, popular ones, similar items, search."""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI

from hot_path_api.api.answers import NO_STORE, Answer
from hot_path_api.api.cursors import read_cursor, write_cursor
from hot_path_api.api.filters import convert_filter, convert_refs, read_excluded, read_filter, read_weights
from hot_path_api.api.kept_lists import PublicLists, WrittenList, question_of, similar_question_of, write_list
from hot_path_api.api.parameters import (
    NoParameters,
    RecommendationParameters,
    SearchParameters,
    SimilarParameters,
    TrendingParameters,
    UserListParameters,
)
from hot_path_api.api.problems import problem_of
from hot_path_api.api.rendering import list_json
from hot_path_api.api.requests import Call, read_json, read_query, validate
from hot_path_api.api.routing import add_route
from hot_path_api.api.schemas import BatchBody, BatchOut, RecommendationBody, RecommendationsOut, SessionEventBody
from hot_path_api.api.times import occurred_at_ms
from hot_path_api.application.attributes import KnownAttributes
from hot_path_api.application.interaction_types import KnownInteractionTypes, check
from hot_path_api.application.pipeline import Pipeline
from hot_path_api.application.rate_limits import RateLimits
from hot_path_api.application.similar import Page, SimilarItems, TextSearch
from hot_path_api.domain.items import ID_PATTERN
from hot_path_api.domain.recommendations import RecommendationList, RecommendationQuery
from hot_path_api.domain.users import SessionEvent
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError, ServiceError
from servicekit.filters import Filter
from servicekit.identity import item_key

_TAG = "recommendations"
_PUBLIC = (b"cache-control", b"public, max-age=300")
_PERSONAL = [(b"cache-control", b"private, no-store"), (b"x-personalized", b"true")]


class RecommendationRoutes:
    """The endpoints of lists."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        similar_items: SimilarItems,
        text_search: TextSearch,
        attributes: KnownAttributes,
        types: KnownInteractionTypes,
        public_lists: PublicLists,
        limits: RateLimits | None,
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._similar_items = similar_items
        self._text_search = text_search
        self._attributes = attributes
        self._types = types
        self._public_lists = public_lists
        self._limits = limits
        self._clock = clock

    def add_to(self, app: FastAPI) -> None:
        """Declare the routes."""
        main = "/api/recommendations"
        add_route(
            app,
            "GET",
            main,
            self.get_recommendations,
            summary="Recommend items",
            description=_MAIN_DESCRIPTION,
            tag=_TAG,
            answers={200: RecommendationsOut, 304: "The list is the one that the client has (anonymous lists only)."},
            query=RecommendationParameters,
        )
        add_route(
            app,
            "POST",
            main,
            self.post_recommendations,
            summary="Recommend items, with everything that can be asked for",
            description="As GET, and for anonymous sessions by what the visitor did (`history`).",
            tag=_TAG,
            answers={200: RecommendationsOut},
            body=RecommendationBody,
        )
        lists = "/api/v1/recommendations"
        add_route(
            app,
            "GET",
            f"{lists}/user/{{user_id:path}}",
            self.get_user_list,
            summary="Recommend items to a user",
            tag=_TAG,
            answers={200: RecommendationsOut},
            query=UserListParameters,
            path_parameters={"user_id": "The caller's id of the user; an unknown one gets what is popular."},
        )
        add_route(
            app,
            "GET",
            f"{lists}/item/{{item_id:path}}",
            self.get_similar,
            summary="Items similar to an item",
            tag=_TAG,
            answers={200: RecommendationsOut},
            query=SimilarParameters,
            path_parameters={"item_id": "The item's id."},
            problems=(HTTPStatus.NOT_FOUND,),
        )
        add_route(
            app,
            "GET",
            f"{lists}/trending",
            self.get_trending,
            summary="What is popular",
            tag=_TAG,
            answers={200: RecommendationsOut, 304: "The list is the one that the client has."},
            query=TrendingParameters,
        )
        add_route(
            app,
            "POST",
            f"{lists}/batch",
            self.post_batch,
            summary="Several lists at once",
            description="A request that cannot be answered has a problem in its place.",
            tag=_TAG,
            answers={200: BatchOut},
            body=BatchBody,
        )
        add_route(
            app,
            "GET",
            "/api/v1/search",
            self.get_search,
            summary="Find items by meaning",
            tag="search",
            answers={200: RecommendationsOut},
            query=SearchParameters,
        )

    async def get_recommendations(self, call: Call) -> Answer:
        """Answer the main call."""
        parameters = read_query(call, RecommendationParameters)
        return await self._list(call, self._user_query(call, parameters, parameters.user_id or ""))

    async def get_user_list(self, call: Call) -> Answer:
        """Answer by user."""
        user_id = call.path_params["user_id"]
        if not ID_PATTERN.fullmatch(user_id):
            raise InvalidArgumentError("user_id has 1 to 255 printable characters", field="user_id")
        return await self._list(call, self._user_query(call, read_query(call, UserListParameters), user_id))

    async def get_trending(self, call: Call) -> Answer:
        """Answer what is popular."""
        asked = read_query(call, TrendingParameters)
        query = RecommendationQuery(
            request_id=call.request_id,
            tenant=call.tenant,
            limit=asked.limit,
            offset=read_cursor(asked.cursor),
            filter=read_filter(asked.filter, asked.item_type),
            exclude=read_excluded(call.tenant, asked.exclude, asked.item_type),
            window=asked.window,
        )
        return await self._list(call, query, cache="trending")

    async def post_recommendations(self, call: Call) -> Answer:
        """Answer the main call from a body."""
        read_query(call, NoParameters)
        values, _ = await read_json(call)
        query = await self._body_query(call, validate(RecommendationBody, values), call.request_id)
        await self._admit(query)
        return _answer_list(await self._recommend(query), query, _PERSONAL if query.is_personal else [NO_STORE])

    async def post_batch(self, call: Call) -> Answer:
        """Answer several requests."""
        read_query(call, NoParameters)
        values, _ = await read_json(call)
        bodies = validate(BatchBody, values).requests
        results = await asyncio.gather(
            *(self._one_of_batch(call, body, f"{call.request_id}-{at}") for at, body in enumerate(bodies))
        )
        return Answer(b'{"results":[%b]}' % b",".join(results), headers=list(_PERSONAL))

    async def get_similar(self, call: Call) -> Answer:
        """Answer similar items."""
        item_id = call.path_params["item_id"]
        asked = read_query(call, SimilarParameters)
        if not ID_PATTERN.fullmatch(item_id):
            raise InvalidArgumentError("item_id has 1 to 255 printable characters", field="item_id")
        page = Page(
            request_id=call.request_id,
            tenant=call.tenant,
            limit=asked.limit,
            offset=read_cursor(asked.cursor),
            filter=read_filter(asked.filter, None),
        )
        weights = read_weights(asked.weights) if asked.weights is not None else None
        key = item_key(call.tenant, asked.item_type, item_id)
        written = await self._public_lists.get(
            "similar",
            page.tenant,
            lambda: similar_question_of(page, key, weights),
            lambda: self._write_similar(page, key, weights),
        )
        return Answer(written.body(call.request_id))

    async def get_search(self, call: Call) -> Answer:
        """Answer a search."""
        asked = read_query(call, SearchParameters)
        page = Page(
            request_id=call.request_id,
            tenant=call.tenant,
            limit=asked.limit,
            offset=read_cursor(asked.cursor),
            filter=read_filter(asked.filter, asked.item_type),
        )
        await self._attributes.require(page.tenant, page.filter)
        return _answer_page(await self._text_search.search(page, asked.q), page)

    async def _list(self, call: Call, query: RecommendationQuery, *, cache: str = "popular") -> Answer:
        if query.is_personal:
            return _answer_list(await self._recommend(query), query, _PERSONAL)
        written = await self._public_lists.get(
            cache, query.tenant, lambda: question_of(query), lambda: self._write_popular(query)
        )
        if not written.is_whole:
            return Answer(written.body(call.request_id))
        # The request id differs each time, so the list's mark is made of what it shows.
        mark = b'W/"%b"' % written.mark
        headers = [_PUBLIC, (b"etag", mark), (b"vary", b"X-API-Key, Authorization")]
        if mark in [each.strip() for each in call.headers.get("if-none-match", "").encode().split(b",")]:
            return Answer(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Answer(written.body(call.request_id), headers=headers)

    async def _write_popular(self, query: RecommendationQuery) -> WrittenList:
        answer = await self._recommend(query)
        return write_list(answer, first_rank=query.offset + 1, next_cursor=_next_cursor(answer, query))

    async def _write_similar(self, page: Page, key: int, weights: Mapping[str, float] | None) -> WrittenList:
        await self._attributes.require(page.tenant, page.filter)
        answer = await self._similar_items.similar(page, key, weights=weights)
        return write_list(answer, first_rank=page.offset + 1, next_cursor=_next_cursor(answer, page))

    async def _admit(self, query: RecommendationQuery) -> None:
        if self._limits is not None:
            await self._limits.admit_user(query.tenant, query.user_id)

    async def _recommend(self, query: RecommendationQuery) -> RecommendationList:
        if query.filter:
            await self._attributes.require(query.tenant, query.filter)
        return await self._pipeline.recommend(query)

    async def _one_of_batch(self, call: Call, body: RecommendationBody, request_id: str) -> bytes:
        try:
            query = await self._body_query(call, body, request_id)
            await self._admit(query)
            return _answer_list(await self._recommend(query), query, []).body
        except ServiceError as error:
            return problem_of(error, request_id=request_id).body

    def _user_query(self, call: Call, asked: UserListParameters, user_id: str) -> RecommendationQuery:
        tenant = call.tenant
        return RecommendationQuery(
            request_id=call.request_id,
            tenant=tenant,
            user_id=user_id,
            limit=asked.limit,
            offset=read_cursor(asked.cursor),
            filter=read_filter(asked.filter, asked.item_type) if asked.filter or asked.item_type else (),
            exclude=read_excluded(tenant, asked.exclude, asked.item_type) if asked.exclude else (),
            diversity=asked.diversity,
            algorithm=asked.algorithm,
            weights=read_weights(asked.weights) if asked.weights is not None else None,
            window=asked.window,
            explain=asked.explain,
            surface=asked.surface,
        )

    async def _body_query(self, call: Call, body: RecommendationBody, request_id: str) -> RecommendationQuery:
        conditions: Filter = convert_filter(body.filter, body.item_type)
        weights: Mapping[str, float] | None = body.weights
        return RecommendationQuery(
            request_id=request_id,
            tenant=call.tenant,
            user_id=body.user_id or "",
            session=await self._session(call.tenant, body.history),
            limit=body.limit,
            offset=read_cursor(body.cursor),
            filter=conditions,
            exclude=convert_refs(call.tenant, body.exclude),
            diversity=body.diversity,
            caps=body.caps,
            algorithm=body.algorithm,
            weights=weights,
            window=body.window,
            explain=body.explain,
            surface=body.surface,
        )

    async def _session(self, tenant: str, events: Sequence[SessionEventBody]) -> list[SessionEvent]:
        if not events:
            return []
        named = frozenset(event.interaction_type for event in events if event.weight is None)
        types = await self._types.with_names(tenant, named) if named else {}
        now_ms = self._clock.now_ms()
        session = []
        for at, event in enumerate(events):
            weight = event.weight
            if weight is None:
                try:
                    weight = check(types, event.interaction_type, event.value).weigh(event.value)
                except InvalidArgumentError as error:
                    raise InvalidArgumentError(error.message, field=f"history[{at}].{error.field}") from error
            when_ms = occurred_at_ms(event.occurred_at, now_ms, field=f"history[{at}].occurred_at")
            session.append(SessionEvent(item_key(tenant, event.item_type, event.item_id), weight, when_ms))
        return session


def _answer_list(answer: RecommendationList, query: RecommendationQuery, headers: list[tuple[bytes, bytes]]) -> Answer:
    body = list_json(answer, first_rank=query.offset + 1, next_cursor=_next_cursor(answer, query))
    return Answer(body, headers=list(headers))


def _answer_page(answer: RecommendationList, page: Page) -> Answer:
    body = list_json(answer, first_rank=page.offset + 1, next_cursor=_next_cursor(answer, page))
    return Answer(body)


def _next_cursor(answer: RecommendationList, asked: RecommendationQuery | Page) -> str | None:
    return write_cursor(asked.offset + asked.limit) if answer.has_more else None


_MAIN_DESCRIPTION = """\
With `user_id` the list is made for this user from everything that is known up to the last request; what the user saw
is left out, and a user of whom nothing is known gets what is popular (`cold_start`). Without it the list is the
popular one, with `Cache-Control: public` and an `ETag`.

The next page is asked for with `cursor`, and everything else unchanged. A list is made anew for each request, so a
page may repeat or miss an item when the user did something in between; at most 1,000 items can be paged through.

`degraded` names what could not be asked in time. The list is then made from what is left."""
