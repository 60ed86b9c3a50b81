"""Messages to domain and back: items, filters and errors, in the words that all services share."""

from recommendation.common.v1 import common_pb2
from servicekit.errors import InvalidArgumentError, ServiceError
from servicekit.filters import AttributeValue, Filter, Operator, Predicate, validate_filter
from servicekit.identity import item_key
from vector_search.domain.items import CREATED_AT_FIELD, ITEM_TYPE_FIELD, Fields, ItemState

_OPERATORS = {
    common_pb2.FILTER_OPERATOR_EQ: Operator.EQ,
    common_pb2.FILTER_OPERATOR_IN: Operator.IN,
    common_pb2.FILTER_OPERATOR_NOT_IN: Operator.NOT_IN,
    common_pb2.FILTER_OPERATOR_GTE: Operator.GTE,
    common_pb2.FILTER_OPERATOR_LTE: Operator.LTE,
    common_pb2.FILTER_OPERATOR_EXISTS: Operator.EXISTS,
}


def element_error(error: ServiceError) -> common_pb2.ElementError:
    """Write why one element has no answer."""
    return common_pb2.ElementError(code=error.code, message=error.message, field=error.field)


def key_of(item: common_pb2.Item | common_pb2.ItemRef) -> int:
    """Give the key of an item.

    Raises:
        InvalidArgumentError: A part of its identity is missing.
    """
    if not (item.tenant and item.item_type and item.item_id):
        raise InvalidArgumentError("an item needs tenant, item_type and item_id", field="item")
    return item_key(item.tenant, item.item_type, item.item_id)


def item_from_message(item: common_pb2.Item) -> ItemState:
    """Read what this service must know of an item.

    Raises:
        InvalidArgumentError: Its identity is not whole, or an attribute has no value.
    """
    return ItemState(
        key_of(item),
        fields_of(item),
        item.updated_at_ms,
        item.hidden,
        item.available_from_ms if item.HasField("available_from_ms") else None,
        item.available_until_ms if item.HasField("available_until_ms") else None,
    )


def fields_of(item: common_pb2.Item) -> Fields:
    """Read the fields by which an item is filtered.

    Raises:
        InvalidArgumentError: An attribute has no value.
    """
    fields = {name: _value(value, f"attributes.{name}") for name, value in item.attributes.items()}
    fields[ITEM_TYPE_FIELD] = item.item_type
    fields[CREATED_AT_FIELD] = float(item.created_at_ms)
    return fields


def filter_from_message(message: common_pb2.Filter) -> Filter:
    """Read a filter.

    Raises:
        InvalidArgumentError: It has too many predicates, or one is wrong.
    """
    if not message.predicates:
        return ()
    conditions = tuple(map(_predicate, message.predicates))
    validate_filter(conditions)
    return conditions


def _predicate(message: common_pb2.Predicate) -> Predicate:
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise InvalidArgumentError(f"operator {message.operator} is none that we know", field="filter")
    return Predicate(message.field, operator, tuple(_value(value, "filter") for value in message.values))


def _value(message: common_pb2.AttributeValue, field: str) -> AttributeValue:
    match message.WhichOneof("kind"):
        case "text":
            return message.text
        case "number":
            return message.number
        case "flag":
            return message.flag
        case "texts":
            return tuple(message.texts.values)
        case _:
            raise InvalidArgumentError(f"{field} has no value", field=field)
