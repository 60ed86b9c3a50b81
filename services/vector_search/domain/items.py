"""What this service must know of an item: by what it is filtered, and whether it may be recommended."""

from collections.abc import Mapping
from dataclasses import dataclass

from servicekit.filters import AttributeValue

Fields = Mapping[str, AttributeValue]
"""The attributes by name, and beside them the item's own `item_type` and `created_at_ms`, which win over an attribute
of the same name."""

ITEM_TYPE_FIELD = "item_type"
CREATED_AT_FIELD = "created_at_ms"


@dataclass(frozen=True, slots=True)
class ItemState:
    """An item as one event or one file left it."""

    key: int
    fields: Fields
    updated_at_ms: int
    hidden: bool = False
    available_from_ms: int | None = None
    available_until_ms: int | None = None
