"""What users do, over REST."""

from collections.abc import Sequence

import orjson
from fastapi import FastAPI

from hot_path_api.api.answers import Answer
from hot_path_api.api.bulks import BulkReader, BulkReport
from hot_path_api.api.parameters import HistoryParameters, NoParameters
from hot_path_api.api.rendering import moment
from hot_path_api.api.requests import MAX_BULK_BODY_BYTES, Call, read_json, read_query, validate
from hot_path_api.api.routing import add_route
from hot_path_api.api.schemas import (
    BulkWritten,
    InteractionPage,
    InteractionsBody,
    InteractionTypesBody,
    InteractionTypesOut,
    InteractionWritten,
    NewInteraction,
)
from hot_path_api.api.times import occurred_at_ms
from hot_path_api.api.writes import STATUS_BY_OUTCOME, EventIds, once
from hot_path_api.application.idempotency import RepeatedWrites
from hot_path_api.application.interaction_types import KnownInteractionTypes
from hot_path_api.application.writing import InteractionWriter
from hot_path_api.domain.events import Interaction
from hot_path_api.domain.items import ID_PATTERN, ItemRef
from hot_path_api.domain.ports import Interactions
from hot_path_api.domain.users import InteractionType
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError, ServiceError

_TAG = "interactions"
_PATH = "/api/v1/interactions"
_TYPES = "/api/v1/interaction-types"


class InteractionRoutes:
    """The endpoints of interactions and their types."""

    def __init__(
        self,
        *,
        interactions: Interactions,
        types: KnownInteractionTypes,
        writer: InteractionWriter,
        repeated: RepeatedWrites[Answer],
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._interactions = interactions
        self._types = types
        self._writer = writer
        self._repeated = repeated
        self._clock = clock
        self._timeout_s = timeout_s
        self._bulk = BulkReader("interactions", NewInteraction)

    def add_to(self, app: FastAPI) -> None:
        """Declare the routes."""
        add_route(
            app,
            "POST",
            _PATH,
            self.post_interaction,
            summary="Record an interaction",
            description="It is in the user's history and list on the next request.",
            tag=_TAG,
            answers={200: InteractionWritten, 201: InteractionWritten, 202: InteractionWritten},
            body=NewInteraction,
            idempotent=True,
        )
        add_route(
            app,
            "POST",
            f"{_PATH}/bulk",
            self.post_interactions,
            summary="Record many interactions",
            description="Up to 10,000 or 16 MiB. A bad one is reported by its index, and the others go in.",
            tag=_TAG,
            answers={201: BulkWritten, 202: BulkWritten},
            body=InteractionsBody,
            idempotent=True,
        )
        add_route(
            app,
            "GET",
            f"{_PATH}/user/{{user_id:path}}",
            self.get_history,
            summary="Page through a user's interactions",
            tag=_TAG,
            answers={200: InteractionPage},
            query=HistoryParameters,
            path_parameters={"user_id": "The caller's id of the user."},
        )
        add_route(
            app,
            "GET",
            _TYPES,
            self.get_types,
            summary="List the interaction types",
            tag=_TAG,
            answers={200: InteractionTypesOut},
        )
        add_route(
            app,
            "PUT",
            _TYPES,
            self.put_types,
            summary="Create or replace interaction types",
            description="Types that are not named stay. Returns all types.",
            tag=_TAG,
            answers={200: InteractionTypesOut},
            body=InteractionTypesBody,
            idempotent=True,
        )

    async def post_interaction(self, call: Call) -> Answer:
        """Record one."""
        read_query(call, NoParameters)
        key = call.idempotency_key
        values, body = await read_json(call)
        interaction = self._interaction(
            call.tenant, validate(NewInteraction, values), EventIds(call, key), 0, self._clock.now_ms()
        )

        async def write() -> Answer:
            outcome = await self._writer.append(interaction)
            document = {"event_id": interaction.event_id, "status": outcome.value}
            return Answer(orjson.dumps(document), status=STATUS_BY_OUTCOME[outcome])

        return await once(self._repeated, call, key, body, write)

    async def post_interactions(self, call: Call) -> Answer:
        """Record many."""
        read_query(call, NoParameters)
        key = call.idempotency_key
        values, body = await read_json(call, max_bytes=MAX_BULK_BODY_BYTES)
        good, bad = self._bulk.read(values)

        async def write() -> Answer:
            report = BulkReport(bad)
            ids, tenant, now_ms = EventIds(call, key), call.tenant, self._clock.now_ms()
            interactions, places = [], []
            for index, asked in good:
                try:
                    interactions.append(self._interaction(tenant, asked, ids, index, now_ms))
                except ServiceError as error:
                    report.refuse(index, error)
                else:
                    places.append(index)
            if interactions:
                report.add(places, await self._writer.append_many(call.tenant, interactions))
            return report.answer()

        return await once(self._repeated, call, key, body, write)

    async def get_history(self, call: Call) -> Answer:
        """Page through a user's interactions."""
        asked = read_query(call, HistoryParameters)
        user_id = call.path_params["user_id"]
        if not ID_PATTERN.fullmatch(user_id):
            raise InvalidArgumentError("user_id has 1 to 255 printable characters", field="user_id")
        page, cursor = await self._interactions.list_interactions(
            call.tenant, user_id, limit=asked.limit, cursor=asked.cursor, timeout_s=self._timeout_s
        )
        document = {
            "user_id": user_id,
            "interactions": [
                {
                    "event_id": each.event_id,
                    "item_id": each.item.item_id,
                    "item_type": each.item.item_type,
                    "interaction_type": each.interaction_type,
                    "value": each.value,
                    "occurred_at": moment(each.occurred_at_ms),
                }
                for each in page
            ],
            "next_cursor": cursor or None,
        }
        return Answer(orjson.dumps(document))

    async def get_types(self, call: Call) -> Answer:
        """List the types."""
        read_query(call, NoParameters)
        return _types_answer(list((await self._types.all(call.tenant, fresher_than_s=0.0)).values()))

    async def put_types(self, call: Call) -> Answer:
        """Create or replace types."""
        read_query(call, NoParameters)
        key = call.idempotency_key
        values, body = await read_json(call)
        asked = validate(InteractionTypesBody, values).interaction_types
        types = [InteractionType(each.name, each.weight, each.centre, each.counts_as_seen) for each in asked]

        async def write() -> Answer:
            await self._types.put(call.tenant, types)
            return _types_answer(list((await self._types.all(call.tenant)).values()))

        return await once(self._repeated, call, key, body, write)

    @staticmethod
    def _interaction(tenant: str, asked: NewInteraction, ids: EventIds, index: int, now_ms: int) -> Interaction:
        return Interaction(
            event_id=asked.event_id or ids.of(index),
            tenant=tenant,
            user_id=asked.user_id,
            item=ItemRef(asked.item_type, asked.item_id),
            interaction_type=asked.interaction_type,
            value=asked.value,
            occurred_at_ms=occurred_at_ms(asked.occurred_at, now_ms, field="occurred_at"),
        )


def _types_answer(types: Sequence[InteractionType]) -> Answer:
    document = {
        "interaction_types": [
            {
                "name": each.name,
                "weight": each.weight,
                "centre": each.centre,
                "counts_as_seen": each.counts_as_seen,
            }
            for each in types
        ]
    }
    return Answer(orjson.dumps(document))
