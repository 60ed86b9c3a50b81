"""Reads what is asked of the graph."""

import math
from collections.abc import Sequence
from typing import Final

from graph_service.application.queries import Expansion, ExplanationQuery, RelatedQuery
from graph_service.application.rebuild import RebuildOrder, RebuildSource
from graph_service.convert.fields import MAX_TENANT, attribute_value, checked_id
from graph_service.domain.graph import CANDIDATE_PATHS, MetaPath
from graph_service.domain.related_lists import PathWeights
from recommendation.common.v1 import common_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from servicekit.arrays import unpack_floats, unpack_keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import Filter, Operator, Predicate, validate_filter

DEFAULT_CANDIDATES: Final = 100
MAX_CANDIDATES: Final = 1_000
DEFAULT_RELATED: Final = 20
MAX_RELATED: Final = 400
DEFAULT_PATHS: Final = 3
MAX_PATHS: Final = 20
MAX_EXPLAINED_ITEMS: Final = 100
MAX_TENANTS: Final = 1_000
DEFAULT_SAMPLES: Final = 100
MAX_SAMPLES: Final = 1_000
DEFAULT_LEAST_PERCENT: Final = 90
MAX_PERCENT: Final = 100

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
        checked_id(message.tenant, "tenant", MAX_TENANT),
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
        checked_id(message.tenant, "tenant", MAX_TENANT),
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
        checked_id(message.tenant, "tenant", MAX_TENANT),
        unpack_keys(message.history_keys, field="history_keys"),
        item_keys,
        _limit(message.limit, default=DEFAULT_PATHS, most=MAX_PATHS),
    )


def rebuild_from_message(message: pb.RebuildGraphRequest) -> RebuildOrder:
    """Read how the graph is to be rebuilt.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if message.source not in {0, *RebuildSource}:
        raise InvalidArgumentError(f"source {message.source} is none that we know", field="source")
    if len(message.tenants) > MAX_TENANTS:
        raise InvalidArgumentError(f"at most {MAX_TENANTS:,} tenants, not {len(message.tenants):,}", field="tenants")
    least_percent = message.least_percent if message.HasField("least_percent") else DEFAULT_LEAST_PERCENT
    if least_percent > MAX_PERCENT:
        raise InvalidArgumentError(f"least_percent must be at most 100, not {least_percent}", field="least_percent")
    if message.samples > MAX_SAMPLES:
        raise InvalidArgumentError(f"samples must be at most {MAX_SAMPLES:,}, not {message.samples:,}", field="samples")
    return RebuildOrder(
        RebuildSource(message.source or RebuildSource.PROFILE_STORE),
        tuple(checked_id(tenant, "tenants", MAX_TENANT) for tenant in message.tenants),
        message.samples or DEFAULT_SAMPLES,
        least_percent,
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
    return Predicate(message.field, operator, tuple(attribute_value(value, message.field) for value in message.values))


def _limit(limit: int, *, default: int, most: int) -> int:
    if limit > most:
        raise InvalidArgumentError(f"limit must be at most {most}, not {limit}", field="limit")
    return limit or default
