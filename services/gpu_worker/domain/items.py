"""An item as far as embedding and training look into it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from servicekit.identity import item_key

_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the catalogue.

    Args:
        texts: Those of its attributes that are texts or lists of texts.
        packed: The whole item as it travels; passed on, never looked into.
    """

    tenant: str
    item_type: str
    item_id: str
    title: str
    description: str
    texts: Mapping[str, tuple[str, ...]]
    hidden: bool
    packed: bytes

    @property
    def key(self) -> int:
        """Give the item's key."""
        return item_key(self.tenant, self.item_type, self.item_id)

    def values_of(self, attributes: Iterable[str]) -> tuple[str, ...]:
        """Give the texts of the named attributes, each once."""
        return tuple(dict.fromkeys(text for name in attributes for text in self.texts.get(name, ())))


@dataclass(frozen=True, slots=True)
class TextRules:
    """What of an item is embedded: title, the texts of these attributes, description, so many words at most."""

    attributes: tuple[str, ...]
    max_words: int

    def text_of(self, item: Item) -> str:
        """Give the text; empty when it has no words."""
        parts = (item.title, ", ".join(item.values_of(self.attributes)), item.description)
        return shorten(". ".join(part.strip() for part in parts if has_words(part)), self.max_words)


def shorten(text: str, max_words: int) -> str:
    """Give the first words of a text; a word longer than 100 characters is cut."""
    head = text[: max_words * 200]
    return " ".join(word[:100] for word in islice(head.split(), max_words))


def has_words(text: str) -> bool:
    """Tell whether there is anything to embed."""
    return any(character.isalnum() for character in text)


def hash_of(text: str) -> str:
    """Give the hash by which an unchanged text is known; stored data depends on it."""
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()
