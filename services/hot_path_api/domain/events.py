"""What the gateway writes to the event log."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from hot_path_api.domain.items import Item, ItemRef


@dataclass(slots=True)
class Interaction:
    """A user did something with an item."""

    event_id: str
    tenant: str
    user_id: str
    item: ItemRef
    interaction_type: str
    value: float | None
    occurred_at_ms: int


@dataclass(frozen=True, slots=True)
class ItemPut:
    """An item has this state from now on."""

    event_id: str
    item: Item


@dataclass(frozen=True, slots=True)
class ItemDeleted:
    """An item is gone."""

    event_id: str
    tenant: str
    item: ItemRef
    occurred_at_ms: int


@dataclass(slots=True)
class ListServed:
    """A list left the gateway; items, scores and propensities are of one length, in the order shown."""

    event_id: str
    tenant: str
    user_id: str
    item_keys: Sequence[int]
    scores: Sequence[float]
    propensities: Sequence[float]
    variant: str
    model_version: str
    surface: str
    occurred_at_ms: int


Event = Interaction | ItemPut | ItemDeleted | ListServed


def write_id(tenant: str, name: str) -> str:
    """Give what the ids of a write's events begin with, the same whenever and wherever the write is repeated."""
    return blake2b(f"{tenant}\0{name}".encode(), digest_size=16).hexdigest()
