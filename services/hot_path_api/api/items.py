"""The catalogue over REST."""

from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI

from hot_path_api.api.answers import Answer
from hot_path_api.api.bulks import BulkReader, BulkReport
from hot_path_api.api.parameters import ItemPageParameters, ItemParameters, NoParameters
from hot_path_api.api.rendering import item_document
from hot_path_api.api.requests import MAX_BULK_BODY_BYTES, Call, read_json, read_query, validate
from hot_path_api.api.routing import add_route
from hot_path_api.api.schemas import BulkWritten, ItemContent, ItemOut, ItemPage, ItemsBody, ItemWritten, NewItem
from hot_path_api.api.times import past_ms, unix_ms
from hot_path_api.api.writes import STATUS_BY_OUTCOME, EventIds, once
from hot_path_api.application.catalogue import Catalogue
from hot_path_api.application.idempotency import RepeatedWrites
from hot_path_api.application.writing import ItemWriter, Outcome
from hot_path_api.domain.events import ItemDeleted, ItemPut
from hot_path_api.domain.items import ID_PATTERN, Item, ItemRef
from hot_path_api.domain.ports import Items
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError, ServiceError
from servicekit.identity import item_key

_TAG = "items"
_PATH = "/api/v1/items"
_ITEM_ID = {"item_id": "The item's id; its type stands in the query."}


class ItemRoutes:
    """The endpoints of items."""

    def __init__(
        self,
        *,
        items: Items,
        catalogue: Catalogue,
        writer: ItemWriter,
        repeated: RepeatedWrites[Answer],
        clock: Clock,
        timeout_s: float,
    ) -> None:
        self._items = items
        self._catalogue = catalogue
        self._writer = writer
        self._repeated = repeated
        self._clock = clock
        self._timeout_s = timeout_s
        self._bulk = BulkReader("items", NewItem)

    def add_to(self, app: FastAPI) -> None:
        """Declare the routes."""
        one = f"{_PATH}/{{item_id:path}}"
        written: dict[int, Any] = {200: ItemWritten, 201: ItemWritten, 202: ItemWritten}
        add_route(
            app,
            "POST",
            _PATH,
            self.post_item,
            summary="Create an item",
            description="Refused when the item exists; PUT replaces it.",
            tag=_TAG,
            answers={201: ItemWritten, 202: ItemWritten},
            body=NewItem,
            problems=(HTTPStatus.CONFLICT,),
            idempotent=True,
        )
        add_route(
            app,
            "POST",
            f"{_PATH}/bulk",
            self.post_items,
            summary="Create or replace many items",
            description="Up to 10,000 items or 16 MiB. A bad one is reported by its index, and the others go in.",
            tag=_TAG,
            answers={201: BulkWritten, 202: BulkWritten},
            body=ItemsBody,
            idempotent=True,
        )
        add_route(
            app,
            "GET",
            _PATH,
            self.get_items,
            summary="Page through the catalogue",
            tag=_TAG,
            answers={200: ItemPage},
            query=ItemPageParameters,
        )
        add_route(
            app,
            "GET",
            one,
            self.get_item,
            summary="Read an item",
            tag=_TAG,
            answers={200: ItemOut},
            query=ItemParameters,
            path_parameters=_ITEM_ID,
            problems=(HTTPStatus.NOT_FOUND,),
        )
        add_route(
            app,
            "PUT",
            one,
            self.put_item,
            summary="Create or replace an item",
            tag=_TAG,
            answers=written,
            query=ItemParameters,
            path_parameters=_ITEM_ID,
            body=ItemContent,
            idempotent=True,
        )
        add_route(
            app,
            "DELETE",
            one,
            self.delete_item,
            summary="Delete an item",
            description="Histories keep it. To keep it from being recommended for a while, set `hidden` instead.",
            tag=_TAG,
            answers={204: "It is gone.", 202: ItemWritten},
            query=ItemParameters,
            path_parameters=_ITEM_ID,
            problems=(HTTPStatus.NOT_FOUND,),
            idempotent=True,
        )

    async def post_item(self, call: Call) -> Answer:
        """Create one."""
        read_query(call, NoParameters)
        key = call.idempotency_key
        values, body = await read_json(call)
        asked = validate(NewItem, values)
        item = self._item(call, ItemRef(asked.item_type, asked.item_id), asked)

        async def write() -> Answer:
            return _written(item, await self._writer.create(ItemPut(EventIds(call, key).of(0), item)))

        return await once(self._repeated, call, key, body, write)

    async def put_item(self, call: Call) -> Answer:
        """Create or replace one."""
        ref = self._ref(call)
        key = call.idempotency_key
        values, body = await read_json(call)
        _strip_identity(values, ref)
        item = self._item(call, ref, validate(ItemContent, values))

        async def write() -> Answer:
            return _written(item, await self._writer.put(ItemPut(EventIds(call, key).of(0), item)))

        return await once(self._repeated, call, key, body, write)

    async def post_items(self, call: Call) -> Answer:
        """Create or replace many."""
        read_query(call, NoParameters)
        key = call.idempotency_key
        values, body = await read_json(call, max_bytes=MAX_BULK_BODY_BYTES)
        good, bad = self._bulk.read(values)

        async def write() -> Answer:
            report = BulkReport(bad)
            ids = EventIds(call, key)
            events, places = [], []
            for index, asked in good:
                try:
                    item = self._item(call, ItemRef(asked.item_type, asked.item_id), asked)
                except ServiceError as error:
                    report.refuse(index, error)
                else:
                    events.append(ItemPut(ids.of(index), item))
                    places.append(index)
            if events:
                report.add(places, await self._writer.put_many(events))
            return report.answer()

        return await once(self._repeated, call, key, body, write)

    async def get_items(self, call: Call) -> Answer:
        """Page through the catalogue."""
        asked = read_query(call, ItemPageParameters)
        items, cursor = await self._items.list_items(
            call.tenant,
            item_type=asked.item_type or "",
            limit=asked.limit,
            cursor=asked.cursor,
            timeout_s=self._timeout_s,
        )
        self._catalogue.learn_attributes(items)
        document = {"items": [item_document(item) for item in items], "next_cursor": cursor or None}
        return Answer(orjson.dumps(document))

    async def get_item(self, call: Call) -> Answer:
        """Read one."""
        ref = self._ref(call)
        key = item_key(call.tenant, ref.item_type, ref.item_id)
        item = await self._catalogue.one(key, timeout_s=self._timeout_s)
        return Answer(orjson.dumps(item_document(item)))

    async def delete_item(self, call: Call) -> Answer:
        """Delete one."""
        ref = self._ref(call)
        name = call.idempotency_key

        async def write() -> Answer:
            event = ItemDeleted(EventIds(call, name).of(0), call.tenant, ref, self._clock.now_ms())
            outcome = await self._writer.delete(event, item_key(call.tenant, ref.item_type, ref.item_id))
            if outcome is not Outcome.ACCEPTED:
                return Answer(status=HTTPStatus.NO_CONTENT)
            document = {"item_id": ref.item_id, "item_type": ref.item_type, "status": outcome.value}
            return Answer(orjson.dumps(document), status=HTTPStatus.ACCEPTED)

        return await once(self._repeated, call, name, b"", write)

    def _ref(self, call: Call) -> ItemRef:
        item_id = call.path_params["item_id"]
        if not ID_PATTERN.fullmatch(item_id):
            raise InvalidArgumentError("item_id has 1 to 255 printable characters", field="item_id")
        return ItemRef(read_query(call, ItemParameters).item_type, item_id)

    def _item(self, call: Call, ref: ItemRef, asked: ItemContent) -> Item:
        now_ms = self._clock.now_ms()
        return Item(
            key=item_key(call.tenant, ref.item_type, ref.item_id),
            tenant=call.tenant,
            ref=ref,
            title=asked.title,
            description=asked.description,
            attributes={name: value for name, value in asked.attributes.items() if value is not None},
            created_at_ms=now_ms if asked.created_at is None else past_ms(asked.created_at, now_ms, field="created_at"),
            available_from_ms=None if asked.available_from is None else unix_ms(asked.available_from),
            available_until_ms=None if asked.available_until is None else unix_ms(asked.available_until),
            hidden=asked.hidden,
            updated_at_ms=now_ms,
        )


def _strip_identity(values: Any, ref: ItemRef) -> None:
    """Let a body repeat the identity that the path names, so that what was read can be put back.

    Raises:
        InvalidArgumentError: It names another item.
    """
    if isinstance(values, dict):
        for name, named in (("item_id", ref.item_id), ("item_type", ref.item_type)):
            if values.pop(name, named) != named:
                raise InvalidArgumentError(f"the body names another {name} than the path", field=name)


def _written(item: Item, outcome: Outcome) -> Answer:
    document = {"item_id": item.ref.item_id, "item_type": item.ref.item_type, "status": outcome.value}
    return Answer(orjson.dumps(document), status=STATUS_BY_OUTCOME[outcome])
