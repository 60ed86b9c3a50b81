"""What happens to the things this service serves, as it hears of it."""

from dataclasses import dataclass

from servicekit.arrays import Floats, Keys
from vector_search.domain.items import ItemState


@dataclass(frozen=True, slots=True)
class ItemPut:
    """An item has this state."""

    tenant: str
    item: ItemState


@dataclass(frozen=True, slots=True)
class ItemDeleted:
    """An item is gone."""

    tenant: str
    key: int
    at_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class ItemEmbedded:
    """An item's text has a vector, and these are its neighbours."""

    tenant: str
    item: ItemState
    neighbour_keys: Keys
    similarities: Floats
    model_id: str = ""
    """Names the encoder."""


@dataclass(frozen=True, slots=True)
class VersionPublished:
    """A version shall serve."""

    tenant: str
    version: str


Change = ItemPut | ItemDeleted | ItemEmbedded | VersionPublished
