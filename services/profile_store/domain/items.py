"""An item of the catalogue, its identity, and which of two states of it stays."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from profile_store.domain.checks import check_id, check_length, check_not_future
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue
from servicekit.identity import item_key

MAX_TENANT = 64
MAX_ITEM_TYPE = 64
MAX_ID = 255
MAX_TITLE = 1_000
MAX_DESCRIPTION = 100_000
MAX_ATTRIBUTES = 100
MAX_ATTRIBUTE_NAME = 255
MAX_TEXT = 10_000
MAX_LIST = 1_000
MAX_LIST_TEXT = 1_000


@dataclass(frozen=True, slots=True)
class ItemRef:
    """Names an item."""

    tenant: str
    item_type: str
    item_id: str

    @property
    def key(self) -> int:
        """The item's key, computed anew at each call."""
        return item_key(self.tenant, self.item_type, self.item_id)


@dataclass(frozen=True, slots=True)
class Item:
    """An item as its owner describes it; times are Unix milliseconds."""

    tenant: str
    item_type: str
    item_id: str
    title: str
    description: str
    attributes: Mapping[str, AttributeValue]
    created_at_ms: int
    available_from_ms: int | None
    available_until_ms: int | None
    hidden: bool
    updated_at_ms: int

    @property
    def ref(self) -> ItemRef:
        """What names it."""
        return ItemRef(self.tenant, self.item_type, self.item_id)

    def attribute(self, name: str) -> AttributeValue | None:
        """Give what a filter sees under a name: `item_type`, `created_at_ms` or an attribute."""
        if name == "item_type":
            return self.item_type
        if name == "created_at_ms":
            return float(self.created_at_ms)
        return self.attributes.get(name)


def is_superseded(stored_at_ms: int, incoming_at_ms: int) -> bool:
    """Tell whether an incoming state or deletion is older than the stored state or deletion, and so is ignored.

    Of two with the same time the one that arrives later stays. Whoever replays a log in its order therefore ends with
    the log's last state, whatever was applied before.
    """
    return incoming_at_ms < stored_at_ms


def size_bound(item: Item) -> int:
    """Give a number of bytes that the item does not exceed as a message: four for each character, and some around."""
    characters = len(item.title) + len(item.description)
    for name, value in item.attributes.items():
        texts = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
        characters += len(name) + sum(map(len, texts)) + 8 * len(texts)
    return 4 * characters + 32 * len(item.attributes) + 2_048


def check_item_ref(ref: ItemRef, *, path: str = "") -> None:
    """Refuse an identity that breaks the limits; `path` goes before the field's name.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_id(ref.tenant, f"{path}tenant", MAX_TENANT)
    check_id(ref.item_type, f"{path}item_type", MAX_ITEM_TYPE)
    check_id(ref.item_id, f"{path}item_id", MAX_ID)


def check_item(item: Item, *, now_ms: int) -> None:
    """Refuse an item that breaks the limits.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_id(item.tenant, "tenant", MAX_TENANT)
    check_id(item.item_type, "item_type", MAX_ITEM_TYPE)
    check_id(item.item_id, "item_id", MAX_ID)
    check_length(item.title, "title", MAX_TITLE)
    check_length(item.description, "description", MAX_DESCRIPTION)
    check_not_future(item.updated_at_ms, "updated_at_ms", now_ms)
    if item.created_at_ms < 0:
        raise InvalidArgumentError("created_at_ms must not be negative", field="created_at_ms")
    starts, ends = item.available_from_ms, item.available_until_ms
    if starts is not None and ends is not None and ends <= starts:
        raise InvalidArgumentError("available_until_ms must be after available_from_ms", field="available_until_ms")
    if len(item.attributes) > MAX_ATTRIBUTES:
        raise InvalidArgumentError(
            f"an item has at most {MAX_ATTRIBUTES} attributes, not {len(item.attributes)}", field="attributes"
        )
    for name, value in item.attributes.items():
        check_id(name, "attributes", MAX_ATTRIBUTE_NAME)
        _check_attribute(name, value)


def _check_attribute(name: str, value: AttributeValue) -> None:
    field = f"attributes.{name}"
    if isinstance(value, str):
        check_length(value, field, MAX_TEXT)
    elif isinstance(value, tuple):
        if len(value) > MAX_LIST:
            raise InvalidArgumentError(f"{field} has more than {MAX_LIST} values", field=field)
        for text in _bad_texts(value):
            raise InvalidArgumentError(
                f"{field} has a value of {len(text)} characters; 1 to {MAX_LIST_TEXT} are allowed", field=field
            )
    elif not isinstance(value, bool) and not math.isfinite(value):
        raise InvalidArgumentError(f"{field} is not finite", field=field)


def _bad_texts(values: tuple[str, ...]) -> Iterator[str]:
    return (text for text in values if not 1 <= len(text) <= MAX_LIST_TEXT)
