"""common.v1 to the domain and back."""

from collections.abc import Mapping, Sequence

from hot_path_api.domain.items import Item, ItemRef
from recommendation.common.v1 import common_pb2
from servicekit.errors import InternalError, ServiceError, error_from_code
from servicekit.filters import AttributeValue, Filter, Operator, Predicate
from servicekit.identity import item_key

_OPERATORS: Mapping[Operator, "common_pb2.FilterOperator.ValueType"] = {
    Operator.EQ: common_pb2.FILTER_OPERATOR_EQ,
    Operator.IN: common_pb2.FILTER_OPERATOR_IN,
    Operator.NOT_IN: common_pb2.FILTER_OPERATOR_NOT_IN,
    Operator.GTE: common_pb2.FILTER_OPERATOR_GTE,
    Operator.LTE: common_pb2.FILTER_OPERATOR_LTE,
    Operator.EXISTS: common_pb2.FILTER_OPERATOR_EXISTS,
}

_BY_NUMBER = {number: operator for operator, number in _OPERATORS.items()}


def item_from_proto(message: common_pb2.Item) -> Item:
    """Read an item."""
    return Item(
        key=item_key(message.tenant, message.item_type, message.item_id),
        tenant=message.tenant,
        ref=ItemRef(message.item_type, message.item_id),
        title=message.title,
        description=message.description,
        attributes={name: _value_from_proto(value) for name, value in message.attributes.items()},
        created_at_ms=message.created_at_ms,
        available_from_ms=message.available_from_ms if message.HasField("available_from_ms") else None,
        available_until_ms=message.available_until_ms if message.HasField("available_until_ms") else None,
        hidden=message.hidden,
        updated_at_ms=message.updated_at_ms,
    )


def item_to_proto(item: Item) -> common_pb2.Item:
    """Write an item."""
    return common_pb2.Item(
        tenant=item.tenant,
        item_type=item.ref.item_type,
        item_id=item.ref.item_id,
        title=item.title,
        description=item.description,
        attributes={name: _value_to_proto(value) for name, value in item.attributes.items()},
        created_at_ms=item.created_at_ms,
        available_from_ms=item.available_from_ms,
        available_until_ms=item.available_until_ms,
        hidden=item.hidden,
        updated_at_ms=item.updated_at_ms,
    )


def ref_to_proto(tenant: str, ref: ItemRef) -> common_pb2.ItemRef:
    """Write an item's identity."""
    return common_pb2.ItemRef(tenant=tenant, item_type=ref.item_type, item_id=ref.item_id)


def filter_to_proto(conditions: Filter) -> common_pb2.Filter | None:
    """Write a filter; None for the one that lets everything pass."""
    if not conditions:
        return None
    return common_pb2.Filter(
        predicates=[
            common_pb2.Predicate(
                field=each.field,
                operator=_OPERATORS[each.operator],
                values=[_value_to_proto(value) for value in each.values],
            )
            for each in conditions
        ]
    )


def filter_from_proto(conditions: common_pb2.Filter) -> Filter:
    """Read a filter."""
    return tuple(
        Predicate(
            field=each.field,
            operator=_BY_NUMBER[each.operator],
            values=tuple(_value_from_proto(value) for value in each.values),
        )
        for each in conditions.predicates
    )


def error_from_proto(error: common_pb2.ElementError) -> ServiceError:
    """Rebuild an element's error."""
    return error_from_code(error.code, error.message, field=error.field)


def same_length(service: str, asked: Sequence[object], answered: Sequence[object]) -> None:
    """See to it that a batch was answered element by element.

    Raises:
        InternalError: It was not.
    """
    if len(asked) != len(answered):
        raise InternalError(f"{service} answered {len(answered)} of {len(asked)} elements")


def _value_from_proto(value: common_pb2.AttributeValue) -> AttributeValue:
    kind = value.WhichOneof("kind")
    if kind == "text":
        return value.text
    if kind == "number":
        return value.number
    if kind == "flag":
        return value.flag
    return tuple(value.texts.values)


def _value_to_proto(value: AttributeValue) -> common_pb2.AttributeValue:
    if isinstance(value, str):
        return common_pb2.AttributeValue(text=value)
    if isinstance(value, bool):
        return common_pb2.AttributeValue(flag=value)
    if isinstance(value, tuple):
        return common_pb2.AttributeValue(texts=common_pb2.AttributeValue.StringList(values=value))
    return common_pb2.AttributeValue(number=value)
