"""Items as the gateway knows them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servicekit.filters import AttributeValue, Filter, matches

MAX_ID_CHARACTERS = 255
MAX_TYPE_CHARACTERS = 64
MAX_TAG_CHARACTERS = 64
TYPE_PATTERN = re.compile(r"[^/\x00-\x1f\x7f]{1,64}")
"""An item type stands in keys and paths before the id, so it holds no slash."""
ID_PATTERN = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True, slots=True)
class ItemRef:
    """The identity of an item within its tenant."""

    item_type: str
    item_id: str


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the catalogue as its owner describes it; times are Unix milliseconds.

    Args:
        derived: Room for what is computed from the item once and needed often, such as its tags or its JSON.
    """

    key: int
    tenant: str
    ref: ItemRef
    title: str = ""
    description: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    created_at_ms: int = 0
    available_from_ms: int | None = None
    available_until_ms: int | None = None
    hidden: bool = False
    updated_at_ms: int = 0
    derived: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def is_available(self, now_ms: int) -> bool:
        """Tell whether it may be recommended now: not hidden, and within its availability window."""
        return (
            not self.hidden
            and (self.available_from_ms is None or self.available_from_ms <= now_ms)
            and (self.available_until_ms is None or now_ms < self.available_until_ms)
        )

    def passes(self, conditions: Filter) -> bool:
        """Tell whether it passes a filter; `item_type` and `created_at_ms` address its own fields."""
        return not conditions or matches(conditions, self._value)

    def _value(self, name: str) -> AttributeValue | None:
        if name == "item_type":
            return self.ref.item_type
        if name == "created_at_ms":
            return float(self.created_at_ms)
        return self.attributes.get(name)


def tags(item: Item) -> frozenset[str]:
    """Give the texts that say what an item is like (genres, people, countries), each with its attribute's name.

    They are what diversity compares. A single text counts only when it is short: a synopsis is no tag.
    """
    found: frozenset[str] | None = item.derived.get("tags")
    if found is None:
        texts: set[str] = set()
        for name, value in item.attributes.items():
            if isinstance(value, tuple):
                texts.update(f"{name}={text}" for text in value)
            elif isinstance(value, str) and len(value) <= MAX_TAG_CHARACTERS:
                texts.add(f"{name}={value}")
        found = item.derived["tags"] = frozenset(texts)
    return found
