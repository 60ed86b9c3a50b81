"""An item as far as embedding and training look into it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from servicekit.identity import item_key

AttributeValue = str | float | bool | tuple[str, ...]

_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the catalogue.

    Args:
        packed: The whole item as it travels; passed on, never looked into.
    """

    tenant: str
    item_type: str
    item_id: str
    title: str
    description: str
    attributes: Mapping[str, AttributeValue]
    created_at_ms: int
    hidden: bool
    packed: bytes

    @property
    def key(self) -> int:
        """Give the item's key."""
        return item_key(self.tenant, self.item_type, self.item_id)


def text_of(item: Item, attributes: Iterable[str]) -> str:
    """Give what is embedded of an item: its title, the texts of the named attributes, its description."""
    parts = [item.title]
    for name in attributes:
        value = item.attributes.get(name)
        if isinstance(value, tuple):
            parts.append(", ".join(value))
        elif isinstance(value, str):
            parts.append(value)
    parts.append(item.description)
    return ". ".join(part.strip() for part in parts if part.strip())


def hash_of(text: str) -> str:
    """Give the hash by which an unchanged text is known; stored data depends on it."""
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


def has_words(text: str) -> bool:
    """Tell whether there is anything to embed."""
    return any(character.isalnum() for character in text)
