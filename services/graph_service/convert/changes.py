"""Reads changes of the graph from requests and from events."""

import math
from dataclasses import dataclass

from graph_service.convert.fields import MAX_ID, MAX_ITEM_TYPE, MAX_TENANT, attribute_value, checked_id
from graph_service.domain.graph import (
    NEVER_MS,
    DeletedItem,
    ErasedUser,
    FilterableItem,
    Interaction,
    InteractionWeights,
    ItemFacts,
    Mutation,
    NodeRule,
    PutItem,
    check_time,
)
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError
from servicekit.identity import item_key, user_key


@dataclass(frozen=True, slots=True)
class MutationReader:
    """Reads changes from requests and events.

    Args:
        nodes: Which attributes name nodes.
        weights: What interactions are worth.
        clock: Tells what lies in the future.
    """

    nodes: NodeRule
    weights: InteractionWeights
    clock: Clock

    def mutation(self, message: pb.ApplyMutationsRequest.Mutation) -> Mutation:
        """Read a change.

        Raises:
            InvalidArgumentError: Names the field.
        """
        match message.WhichOneof("change"):
            case "put_item":
                return self.item(message.put_item, message.put_item.updated_at_ms)
            case "deleted_item":
                return self.deleted_item(message.deleted_item.item, message.deleted_item.occurred_at_ms)
            case "interaction":
                did = message.interaction
                if not math.isfinite(did.weight):
                    raise InvalidArgumentError("weight must be finite", field="weight")
                self._check_time(did.occurred_at_ms)
                return Interaction(_user(did.tenant, did.user_id), did.item_key, did.weight, did.occurred_at_ms)
            case "erased_user":
                return self.erased_user(message.erased_user)
            case _:
                raise InvalidArgumentError("the mutation has no change", field="change")

    def content_changed(self, event: events_pb2.ContentChanged) -> Mutation:
        """Read what happened to an item; the time is the item's own, or the event's when it has none.

        Raises:
            InvalidArgumentError: Names the field.
        """
        match event.WhichOneof("change"):
            case "put":
                return self.item(event.put, event.put.updated_at_ms or event.occurred_at_ms)
            case "deleted":
                return self.deleted_item(event.deleted, event.occurred_at_ms)
            case _:
                raise InvalidArgumentError("the event has neither put nor deleted", field="change")

    def interaction(self, event: events_pb2.InteractionRecorded) -> Interaction:
        """Read what a user did, and weigh it.

        Raises:
            InvalidArgumentError: Names the field.
        """
        value = event.value if event.HasField("value") else None
        if value is not None and not math.isfinite(value):
            raise InvalidArgumentError("value must be finite", field="value")
        checked_id(event.interaction_type, "interaction_type", MAX_ID)
        self._check_time(event.occurred_at_ms)
        return Interaction(
            _user(event.tenant, event.user_id),
            _item(event.tenant, event.item_type, event.item_id),
            self.weights.weigh(event.interaction_type, value),
            event.occurred_at_ms,
        )

    def erased_user(self, message: pb.ApplyMutationsRequest.ErasedUser | events_pb2.UserErased) -> ErasedUser:
        """Read who is to be forgotten.

        Raises:
            InvalidArgumentError: Names the field.
        """
        self._check_time(message.occurred_at_ms)
        return ErasedUser(_user(message.tenant, message.user_id), message.occurred_at_ms)

    def item(self, message: common_pb2.Item, occurred_at_ms: int) -> PutItem:
        """Read an item's state.

        Raises:
            InvalidArgumentError: Names the field.
        """
        self._check_time(occurred_at_ms)
        attributes = {name: attribute_value(value, f"attributes.{name}") for name, value in message.attributes.items()}
        from_ms = message.available_from_ms if message.HasField("available_from_ms") else 0
        until_ms = message.available_until_ms if message.HasField("available_until_ms") else NEVER_MS
        return PutItem(
            _item(message.tenant, message.item_type, message.item_id),
            ItemFacts(message.tenant, NEVER_MS if message.hidden else from_ms, until_ms),
            FilterableItem(message.item_type, message.created_at_ms, attributes),
            self.nodes.nodes_of(message.tenant, attributes),
            occurred_at_ms,
        )

    def deleted_item(self, item: common_pb2.ItemRef, occurred_at_ms: int) -> DeletedItem:
        """Read which item is gone.

        Raises:
            InvalidArgumentError: Names the field.
        """
        self._check_time(occurred_at_ms)
        return DeletedItem(_item(item.tenant, item.item_type, item.item_id), item.tenant, occurred_at_ms)

    def _check_time(self, occurred_at_ms: int) -> None:
        check_time(occurred_at_ms, self.clock.now_ms(), field="occurred_at_ms")


def _item(tenant: str, item_type: str, item_id: str) -> int:
    return item_key(
        checked_id(tenant, "tenant", MAX_TENANT),
        checked_id(item_type, "item_type", MAX_ITEM_TYPE),
        checked_id(item_id, "item_id", MAX_ID),
    )


def _user(tenant: str, user_id: str) -> int:
    return user_key(checked_id(tenant, "tenant", MAX_TENANT), checked_id(user_id, "user_id", MAX_ID))
