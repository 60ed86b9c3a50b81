"""Users, items, interactions and popularity: messages to domain and back."""

from profile_store.convert.errors import element_error
from profile_store.domain.contexts import ContextQuery, UserContext
from profile_store.domain.interactions import Interaction, InteractionType
from profile_store.domain.items import Item, ItemRef
from profile_store.domain.popularity import PopularityList, PopularityQuery, Window
from recommendation.common.v1 import common_pb2
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from servicekit.arrays import pack_floats, pack_keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue, Filter, Operator, Predicate

_OPERATORS = {
    common_pb2.FILTER_OPERATOR_EQ: Operator.EQ,
    common_pb2.FILTER_OPERATOR_IN: Operator.IN,
    common_pb2.FILTER_OPERATOR_NOT_IN: Operator.NOT_IN,
    common_pb2.FILTER_OPERATOR_GTE: Operator.GTE,
    common_pb2.FILTER_OPERATOR_LTE: Operator.LTE,
    common_pb2.FILTER_OPERATOR_EXISTS: Operator.EXISTS,
}
_WINDOWS = {
    pb.POPULARITY_WINDOW_UNSPECIFIED: Window.WEEK,
    pb.POPULARITY_WINDOW_HOUR: Window.HOUR,
    pb.POPULARITY_WINDOW_DAY: Window.DAY,
    pb.POPULARITY_WINDOW_WEEK: Window.WEEK,
    pb.POPULARITY_WINDOW_MONTH: Window.MONTH,
    pb.POPULARITY_WINDOW_ALL: Window.ALL,
}


def item_from_message(message: common_pb2.Item) -> Item:
    """Read an item.

    Raises:
        InvalidArgumentError: An attribute has no value.
    """
    return Item(
        message.tenant,
        message.item_type,
        message.item_id,
        message.title,
        message.description,
        {name: _value_from_message(value, f"attributes.{name}") for name, value in message.attributes.items()},
        message.created_at_ms,
        message.available_from_ms if message.HasField("available_from_ms") else None,
        message.available_until_ms if message.HasField("available_until_ms") else None,
        message.hidden,
        message.updated_at_ms,
    )


def item_or_error(message: common_pb2.Item) -> Item | InvalidArgumentError:
    """Read an item, or say why it cannot be read."""
    try:
        return item_from_message(message)
    except InvalidArgumentError as error:
        return error


def item_to_message(item: Item) -> common_pb2.Item:
    """Write an item."""
    return common_pb2.Item(
        tenant=item.tenant,
        item_type=item.item_type,
        item_id=item.item_id,
        title=item.title,
        description=item.description,
        attributes={name: _value_to_message(value) for name, value in item.attributes.items()},
        created_at_ms=item.created_at_ms,
        available_from_ms=item.available_from_ms,
        available_until_ms=item.available_until_ms,
        hidden=item.hidden,
        updated_at_ms=item.updated_at_ms,
    )


def ref_from_message(message: common_pb2.ItemRef) -> ItemRef:
    """Read the identity of an item."""
    return ItemRef(message.tenant, message.item_type, message.item_id)


def interaction_from_message(message: pb.Interaction) -> Interaction:
    """Read an interaction."""
    return Interaction(
        message.event_id,
        message.tenant,
        message.user_id,
        message.item_type,
        message.item_id,
        message.interaction_type,
        message.value if message.HasField("value") else None,
        message.occurred_at_ms,
    )


def interaction_to_message(interaction: Interaction) -> pb.Interaction:
    """Write an interaction."""
    return pb.Interaction(
        event_id=interaction.event_id,
        tenant=interaction.tenant,
        user_id=interaction.user_id,
        item_type=interaction.item_type,
        item_id=interaction.item_id,
        interaction_type=interaction.interaction_type,
        value=interaction.value,
        occurred_at_ms=interaction.occurred_at_ms,
    )


def type_from_message(message: pb.InteractionType) -> InteractionType:
    """Read an interaction type."""
    centre = message.centre if message.HasField("centre") else None
    return InteractionType(message.name, message.weight, centre, message.counts_as_seen)


def type_to_message(kind: InteractionType) -> pb.InteractionType:
    """Write an interaction type."""
    return pb.InteractionType(
        name=kind.name, weight=kind.weight, centre=kind.centre, counts_as_seen=kind.counts_as_seen
    )


def context_query_from_message(message: pb.GetUserContextsRequest.Query) -> ContextQuery:
    """Read whose context is wanted."""
    return ContextQuery(message.tenant, message.user_id, message.history_limit)


def context_to_message(context: UserContext | InvalidArgumentError) -> pb.GetUserContextsResponse.UserContext:
    """Write a context, or why there is none."""
    if isinstance(context, InvalidArgumentError):
        return pb.GetUserContextsResponse.UserContext(error=element_error(context))
    # The arrays are int64 and float32 already, so their bytes are what the proto says.
    return pb.GetUserContextsResponse.UserContext(
        history_keys=context.history_keys.tobytes(),
        history_weights=context.history_weights.tobytes(),
        history_times_ms=context.history_times_ms.tobytes(),
        seen_keys=context.seen_keys.tobytes(),
        interaction_count=context.interaction_count,
    )


def popularity_query_or_error(message: pb.GetPopularityRequest.Query) -> PopularityQuery | InvalidArgumentError:
    """Read a question for what is popular, or say why it cannot be read."""
    window = _WINDOWS.get(message.window)
    if window is None:
        return InvalidArgumentError(f"window {message.window} is none that we know", field="window")
    try:
        wanted = _filter_from_message(message.filter)
    except InvalidArgumentError as error:
        return error
    return PopularityQuery(message.tenant, message.item_type or None, window, message.limit, wanted)


def popularity_to_message(
    popularity: PopularityList | InvalidArgumentError,
) -> pb.GetPopularityResponse.Popularity:
    """Write a list of popular items, or why there is none."""
    if isinstance(popularity, InvalidArgumentError):
        return pb.GetPopularityResponse.Popularity(error=element_error(popularity))
    return pb.GetPopularityResponse.Popularity(
        item_keys=pack_keys(popularity.keys), scores=pack_floats(popularity.scores)
    )


def _filter_from_message(message: common_pb2.Filter) -> Filter:
    return tuple(_predicate_from_message(predicate) for predicate in message.predicates)


def _predicate_from_message(message: common_pb2.Predicate) -> Predicate:
    operator = _OPERATORS.get(message.operator)
    if operator is None:
        raise InvalidArgumentError(f"operator {message.operator} is none that we know", field="filter")
    return Predicate(message.field, operator, tuple(_value_from_message(value, "filter") for value in message.values))


def _value_from_message(message: common_pb2.AttributeValue, field: str) -> AttributeValue:
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


def _value_to_message(value: AttributeValue) -> common_pb2.AttributeValue:
    if isinstance(value, str):
        return common_pb2.AttributeValue(text=value)
    if isinstance(value, bool):
        return common_pb2.AttributeValue(flag=value)
    if isinstance(value, tuple):
        return common_pb2.AttributeValue(texts=common_pb2.AttributeValue.StringList(values=value))
    return common_pb2.AttributeValue(number=value)
