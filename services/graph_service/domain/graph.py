"""The graph's words: nodes, meta-paths, changes, and the rule that turns an item's attributes into nodes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue
from servicekit.identity import item_key

Keys = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

NEVER_MS: Final = (1 << 63) - 1
"""A moment that does not come: an item that becomes visible then is hidden."""

MAX_NODES_PER_KIND: Final = 50
"""Of a longer list of genres, people or countries the first ones count; the fiftieth extra relates no films."""

MAX_AHEAD_MS: Final = 300_000
"""A time further in the future than five minutes is a mistake of its producer, and would outdate all that follows."""


class NodeKind(IntEnum):
    """What may stand between two items besides a user; stored data depends on the numbers."""

    PERSON = 1
    GENRE = 2
    COUNTRY = 3


class MetaPath(IntEnum):
    """A sequence of nodes that relates two items."""

    ITEM_PERSON_ITEM = 1
    ITEM_GENRE_ITEM = 2
    ITEM_USER_ITEM = 3
    ITEM_COUNTRY_ITEM = 4


CANDIDATE_PATHS: Final = (MetaPath.ITEM_PERSON_ITEM, MetaPath.ITEM_GENRE_ITEM, MetaPath.ITEM_USER_ITEM)
"""The meta-paths that make candidates, in the order of the columns of every score matrix."""

PATH_THROUGH: Final = {
    NodeKind.PERSON: MetaPath.ITEM_PERSON_ITEM,
    NodeKind.GENRE: MetaPath.ITEM_GENRE_ITEM,
    NodeKind.COUNTRY: MetaPath.ITEM_COUNTRY_ITEM,
}


@dataclass(frozen=True, slots=True)
class Node:
    """A person, genre or country of one tenant."""

    kind: NodeKind
    name: str
    key: int


@dataclass(frozen=True, slots=True)
class NodeRule:
    """Which attributes of an item name its nodes."""

    attributes: Mapping[NodeKind, tuple[str, ...]]

    def nodes_of(self, tenant: str, attributes: Mapping[str, AttributeValue]) -> tuple[Node, ...]:
        """Give the distinct nodes that the attributes name, in their order; numbers and truth values name none."""
        nodes: dict[int, Node] = {}
        for kind, fields in self.attributes.items():
            names = dict.fromkeys(name for field in fields for name in _texts(attributes.get(field)))
            for name in list(names)[:MAX_NODES_PER_KIND]:
                node = Node(kind, name, node_key(tenant, kind, name))
                nodes[node.key] = node
        return tuple(nodes.values())


def node_key(tenant: str, kind: NodeKind, name: str) -> int:
    """Give a node's key, made like an item's."""
    return item_key(tenant, kind.name, name)


def _texts(value: AttributeValue | None) -> Iterable[str]:
    texts = (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()
    return (stripped for text in texts if (stripped := text.strip()))


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What decides whether an item may be shown to somebody at some moment."""

    tenant: str
    visible_from_ms: int
    visible_until_ms: int


@dataclass(frozen=True, slots=True)
class FilterableItem:
    """What filters may ask of an item."""

    item_type: str
    created_at_ms: int
    attributes: Mapping[str, AttributeValue]

    def get(self, field: str) -> AttributeValue | None:
        """Give the value of an attribute or of one of the item's own fields."""
        if field == "item_type":
            return self.item_type
        if field == "created_at_ms":
            return self.created_at_ms
        return self.attributes.get(field)


@dataclass(frozen=True, slots=True)
class PutItem:
    """An item's whole new state."""

    item_key: int
    facts: ItemFacts
    filterable: FilterableItem
    nodes: tuple[Node, ...]
    occurred_at_ms: int


@dataclass(frozen=True, slots=True)
class DeletedItem:
    """An item is gone; it comes back only by a later PutItem."""

    item_key: int
    tenant: str
    occurred_at_ms: int

    @property
    def facts(self) -> ItemFacts:
        """Say that it may never be shown."""
        return ItemFacts(self.tenant, NEVER_MS, NEVER_MS)


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user did something with an item; only a positive weight makes an edge."""

    user_key: int
    item_key: int
    weight: float
    occurred_at_ms: int


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """A user's edges up to this moment go, and none of that time is taken any more."""

    user_key: int
    occurred_at_ms: int


Mutation = PutItem | DeletedItem | Interaction | ErasedUser


@dataclass(frozen=True, slots=True)
class InteractionWeights:
    """What an interaction is worth; profile_store's weights, as far as this service can know them.

    Args:
        weights: By the type's name; a type not named is worth 1.
        rating_centre: A rating is worth its value less this.
    """

    weights: Mapping[str, float]
    rating_centre: float

    def weigh(self, interaction_type: str, value: float | None) -> float:
        """Give the signed weight.

        Raises:
            InvalidArgumentError: A rating has no value.
        """
        if interaction_type == "rating":
            if value is None:
                raise InvalidArgumentError("a rating needs a value", field="value")
            return value - self.rating_centre
        return self.weights.get(interaction_type, 1.0)


def check_time(occurred_at_ms: int, now_ms: int, *, field: str) -> None:
    """Refuse a time that cannot be right.

    Raises:
        InvalidArgumentError: It is missing, or more than five minutes in the future.
    """
    if occurred_at_ms <= 0:
        raise InvalidArgumentError(f"{field} must be a Unix time in milliseconds", field=field)
    if occurred_at_ms > now_ms + MAX_AHEAD_MS:
        raise InvalidArgumentError(f"{field} lies more than five minutes in the future", field=field)
