"""What is served to each tenant: versions with their catalogues and overlays, and how changes reach all of them."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from servicekit.clock import Clock
from servicekit.logs import get_logger
from vector_search.domain.catalogue import Catalogue
from vector_search.domain.changes import Change, ItemDeleted, ItemEmbedded, ItemPut
from vector_search.domain.items import ItemState
from vector_search.domain.model import UNTRAINED_MODEL, ModelVersion
from vector_search.domain.overlay import Overlay
from vector_search.domain.retrieval import Retriever

_log = get_logger(__name__)

NEIGHBOURS = 50
"""How many of a new item's neighbours are linked with it: as many as a row of a trained content table has."""


class Serving:
    """One version with everything that happened since it was made."""

    def __init__(self, version: ModelVersion, *, clock: Clock) -> None:
        self.version = version
        self.catalogue = Catalogue(version.items, clock=clock)
        self.overlay = Overlay(self.catalogue.numbering.capacity)
        self.retriever = Retriever(version, self.catalogue, self.overlay)
        self.embedded: dict[int, tuple[str, int]] = {}
        """By which encoder the items were embedded of which this was heard since the version was made, and in the state
        of which time."""

    def apply(self, change: Change) -> None:
        """Let a change count; one that is older than what is known changes nothing."""
        match change:
            case ItemPut(_, item):
                self.put(item)
            case ItemDeleted(_, key, at_ms):
                if self.catalogue.remove(key, at_ms):
                    self.embedded.pop(key, None)
                self._keep_up()
            case ItemEmbedded():
                self.put(change.item)
                key, at_ms = change.item.key, change.item.updated_at_ms
                if at_ms >= self.embedded.get(key, ("", at_ms))[1]:
                    self.embedded[key] = (change.model_id, at_ms)
                    self._link(change)

    def put(self, item: ItemState) -> None:
        """Let an item's state count."""
        self.catalogue.put(item)
        self._keep_up()

    def _link(self, embedded: ItemEmbedded) -> None:
        number = self.catalogue.number(embedded.item.key)
        content = self.version.sources[self.version.content_source].table
        if len(content.row(number)[0]):
            return  # the version's own neighbours stay until the next training
        keys = embedded.neighbour_keys[:NEIGHBOURS]
        numbers = np.array([self.catalogue.number(key) for key in keys.tolist()], np.int32)
        self._keep_up()
        refused = self.overlay.refused
        self.overlay.link(number, numbers, embedded.similarities[: len(keys)])
        if self.overlay.refused > refused and not refused:
            _log.warning("so many items are new that no more can be linked: train a model", tenant=embedded.tenant)

    def _keep_up(self) -> None:
        self.overlay.grow(self.catalogue.numbering.capacity)


class Tenant:
    """The versions of one tenant; the active one answers."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        self.name = name
        self.active = Serving(UNTRAINED_MODEL, clock=clock)
        self.previous: Serving | None = None
        self.building: deque[Serving] = deque()

    def all(self) -> Iterator[Serving]:
        """Give every version that must hear of changes."""
        yield self.active
        if self.previous is not None:
            yield self.previous
        yield from self.building

    def apply(self, change: Change) -> None:
        """Let a change count in every version."""
        for serving in self.all():
            serving.apply(change)

    def switch(self, serving: Serving) -> None:
        """Let a version answer from now on; the version that answered before stays for a rollback."""
        if serving is not self.active:
            self.previous = self.active if self.active.version.name else None
            self.active = serving


class Tenants:
    """All tenants of which anything was ever written or heard."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tenants: dict[str, Tenant] = {}
        self._nobody = Tenant("", clock=clock)

    def find(self, name: str) -> Tenant:
        """Give a tenant to read from, one that has nothing when there is none of that name; not to be written to."""
        return self._tenants.get(name, self._nobody)

    def get(self, name: str) -> Tenant:
        """Give a tenant to write to, a new one when there is none of that name."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name, clock=self._clock)
        return tenant

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())
