"""Messages to domain and back, checked on the way in."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from graph_service.application.queries import Expansion, Explanation, ExplanationQuery, RankedItems, RelatedQuery
from graph_service.domain.composition import Candidates
from graph_service.domain.graph import (
    CANDIDATE_PATHS,
    NEVER_MS,
    DeletedItem,
    ErasedUser,
    FilterableItem,
    Interaction,
    InteractionWeights,
    ItemFacts,
    MetaPath,
    Mutation,
    NodeRule,
    PutItem,
    check_time,
)
from graph_service.domain.related_lists import PathWeights
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from servicekit.arrays import pack_floats, pack_ints, pack_keys, unpack_floats, unpack_keys
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError, ServiceError
from servicekit.filters import AttributeValue, Filter, Operator, Predicate, validate_filter
from servicekit.identity import item_key, user_key

DEFAULT_CANDIDATES: Final = 100
MAX_CANDIDATES: Final = 1_000
DEFAULT_RELATED: Final = 20
MAX_RELATED: Final = 400
DEFAULT_PATHS: Final = 3
MAX_PATHS: Final = 20
MAX_EXPLAINED_ITEMS: Final = 100
MAX_TENANT: Final = 64
MAX_ITEM_TYPE: Final = 64
MAX_ID: Final = 255

_OPERATORS: Final = {
    common_pb2.FILTER_OPERATOR_EQ: Operator.EQ,
    common_pb2.FILTER_OPERATOR_IN: Operator.IN,
    common_pb2.FILTER_OPERATOR_NOT_IN: Operator.NOT_IN,
    common_pb2.FILTER_OPERATOR_GTE: Operator.GTE,
    common_pb2.FILTER_OPERATOR_LTE: Operator.LTE,
    common_pb2.FILTER_OPERATOR_EXISTS: Operator.EXISTS,
}

_CANDIDATE_PATHS: Final = {
    pb.META_PATH_ITEM_PERSON_ITEM: MetaPath.ITEM_PERSON_ITEM,
    pb.META_PATH_ITEM_GENRE_ITEM: MetaPath.ITEM_GENRE_ITEM,
    pb.META_PATH_ITEM_USER_ITEM: MetaPath.ITEM_USER_ITEM,
}


# --- questions ---


def expansion_from_message(message: pb.ExpandUsersRequest.Query) -> Expansion:
    """Read whose candidates are wanted.

    Raises:
        InvalidArgumentError: Names the field.
    """
    history_keys = unpack_keys(message.history_keys, field="history_keys")
    history_weights = unpack_floats(message.history_weights, field="history_weights")
    if len(history_keys) != len(history_weights):
        raise InvalidArgumentError(
            f"there are {len(history_keys)} history keys and {len(history_weights)} weights", field="history_weights"
        )
    return Expansion(
        _checked_id(message.tenant, "tenant", MAX_TENANT),
        history_keys,
        history_weights,
        unpack_keys(message.exclude_keys, field="exclude_keys"),
        _limit(message.limit, default=DEFAULT_CANDIDATES, most=MAX_CANDIDATES),
        _path_weights(message.meta_path_weights),
        _filter_from_message(message.filter) if message.HasField("filter") else (),
    )


def related_from_message(message: pb.RelatedItemsRequest.Query) -> RelatedQuery:
    """Read whose related items are wanted.

    Raises:
        InvalidArgumentError: Names the field.
    """
    return RelatedQuery(
        _checked_id(message.tenant, "tenant", MAX_TENANT),
        message.item_key,
        _limit(message.limit, default=DEFAULT_RELATED, most=MAX_RELATED),
        _path_weights(message.meta_path_weights),
    )


def explanation_from_message(message: pb.ExplainRecommendationsRequest.Query) -> ExplanationQuery:
    """Read what is to be explained.

    Raises:
        InvalidArgumentError: Names the field.
    """
    item_keys = unpack_keys(message.item_keys, field="item_keys")
    if len(item_keys) > MAX_EXPLAINED_ITEMS:
        raise InvalidArgumentError(
            f"at most {MAX_EXPLAINED_ITEMS} items are explained at once, not {len(item_keys)}", field="item_keys"
        )
    return ExplanationQuery(
        _checked_id(message.tenant, "tenant", MAX_TENANT),
        unpack_keys(message.history_keys, field="history_keys"),
        item_keys,
        _limit(message.limit, default=DEFAULT_PATHS, most=MAX_PATHS),
    )


def _path_weights(messages: Sequence[pb.MetaPathWeight]) -> PathWeights | None:
    if not messages:
        return None
    weights = dict.fromkeys(CANDIDATE_PATHS, 0.0)
    field = "meta_path_weights"
    for message in messages:
        path = _CANDIDATE_PATHS.get(message.meta_path)
        if path is None:
            raise InvalidArgumentError(f"meta-path {message.meta_path} makes no candidates", field=field)
        if not (math.isfinite(message.weight) and message.weight >= 0):
            raise InvalidArgumentError("the weight of a meta-path must be finite and not negative", field=field)
        weights[path] = message.weight
    person, genre, user = weights.values()
    return person, genre, user


def _filter_from_message(message: common_pb2.Filter) -> Filter:
    conditions = tuple(map(_predicate_from_message, message.predicates))
    validate_filter(conditions)
    return conditions


def _predicate_from_message(message: common_pb2.Predicate) -> Predicate:
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise InvalidArgumentError(f"filter operator {message.operator} is none that we know", field=message.field)
    return Predicate(message.field, operator, tuple(_value(value, message.field) for value in message.values))


def _limit(limit: int, *, default: int, most: int) -> int:
    if limit > most:
        raise InvalidArgumentError(f"limit must be at most {most}, not {limit}", field="limit")
    return limit or default


# --- changes ---


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
        _checked_id(event.interaction_type, "interaction_type", MAX_ID)
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
        attributes = {name: _value(value, f"attributes.{name}") for name, value in message.attributes.items()}
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
        _checked_id(tenant, "tenant", MAX_TENANT),
        _checked_id(item_type, "item_type", MAX_ITEM_TYPE),
        _checked_id(item_id, "item_id", MAX_ID),
    )


def _user(tenant: str, user_id: str) -> int:
    return user_key(_checked_id(tenant, "tenant", MAX_TENANT), _checked_id(user_id, "user_id", MAX_ID))


def _checked_id(value: str, field: str, longest: int) -> str:
    if not 1 <= len(value) <= longest:
        raise InvalidArgumentError(f"{field} must have 1 to {longest} characters, not {len(value)}", field=field)
    return value


def _value(message: common_pb2.AttributeValue, field: str) -> AttributeValue:
    match message.WhichOneof("kind"):
        case "text":
            return message.text
        case "number":
            if not math.isfinite(message.number):
                raise InvalidArgumentError(f"{field} is not finite", field=field)
            return message.number
        case "flag":
            return message.flag
        case "texts":
            return tuple(message.texts.values)
        case _:
            raise InvalidArgumentError(f"{field} has no value", field=field)


# --- answers ---


def candidates_to_message(answer: Candidates | ServiceError) -> pb.ExpandUsersResponse.Candidates:
    """Write a user's candidates."""
    if isinstance(answer, ServiceError):
        return pb.ExpandUsersResponse.Candidates(error=error_to_message(answer))
    return pb.ExpandUsersResponse.Candidates(
        item_keys=pack_keys(answer.keys), scores=pack_floats(answer.scores), because=pack_ints(answer.because)
    )


def related_to_message(answer: RankedItems | ServiceError) -> pb.RelatedItemsResponse.Related:
    """Write an item's related items."""
    if isinstance(answer, ServiceError):
        return pb.RelatedItemsResponse.Related(error=error_to_message(answer))
    return pb.RelatedItemsResponse.Related(item_keys=pack_keys(answer.keys), scores=pack_floats(answer.scores))


def explanation_to_message(answer: Explanation | ServiceError) -> pb.ExplainRecommendationsResponse.Explanation:
    """Write the paths of one query."""
    if isinstance(answer, ServiceError):
        return pb.ExplainRecommendationsResponse.Explanation(error=error_to_message(answer))
    return pb.ExplainRecommendationsResponse.Explanation(
        paths=[
            pb.ExplainRecommendationsResponse.Path(
                item_key=path.item_key,
                history_key=path.history_key,
                meta_path=pb.MetaPath.ValueType(path.meta_path),
                through=path.through,
                share=path.share,
            )
            for path in answer
        ]
    )


def errors_to_messages(errors: Iterable[ServiceError | None]) -> list[common_pb2.ElementError]:
    """Write what became of changes; an entry without code is a success."""
    return [common_pb2.ElementError() if error is None else error_to_message(error) for error in errors]


def error_to_message(error: ServiceError) -> common_pb2.ElementError:
    """Write why one element has no answer."""
    return common_pb2.ElementError(code=error.code, message=error.message, field=error.field)
