"""Model versions: brought up beside the one that serves, verified, switched to in one step, rolled back, dropped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError, NotFoundError
from servicekit.logs import get_logger
from vector_search.application.content import ContentVectors
from vector_search.application.tenants import Serving, Tenant, Tenants
from vector_search.domain.dense import Distance, Mark, Payload, Points, Space
from vector_search.domain.model import ModelVersion
from vector_search.domain.ports import ModelStore, Tail
from vector_search.domain.recall import measure_recall

_PAGE = 1_000
_SAMPLES = 100


@dataclass(frozen=True, slots=True)
class Activated:
    """What an activation did."""

    previous: str
    recall_at_10: float


class Versions:
    """Brings versions up; at most one at a time for each tenant."""

    def __init__(
        self,
        tenants: Tenants,
        *,
        models: ModelStore,
        content: ContentVectors,
        tail: Tail,
        clock: Clock,
        least_recall: float,
    ) -> None:
        self._tenants = tenants
        self._models = models
        self._content = content
        self._tail = tail
        self._clock = clock
        self._least_recall = least_recall
        self._locks: dict[str, asyncio.Lock] = {}
        self._log = get_logger(__name__)

    async def start(self, tenant_name: str) -> None:
        """Serve the version that shall serve, once at start and before changes are read; a damaged one is left out."""
        await self._content.open(tenant_name)
        tenant = self._tenants.get(tenant_name)
        name = await self._models.active(tenant_name)
        if name:
            try:
                version = await self._models.load(tenant_name, name, verify=False)
            except (NotFoundError, FailedPreconditionError) as error:
                self._log.error("the active version cannot be served", tenant=tenant_name, error=error.message)
            else:
                tenant.switch(Serving(version, clock=self._clock))
                tenant.previous = None

    async def restore_content(self) -> None:
        """Make the content vectors of active versions anew where there are none, as on a new replica's empty disk."""
        for tenant in self._tenants:
            encoder = tenant.active.version.encoder
            if encoder and self._content.serving(tenant.name, encoder) is None:
                self._log.info("making the content vectors from the version", tenant=tenant.name)
                await self._bring_up_content(tenant.name, tenant.active)

    async def activate(self, tenant_name: str, name: str) -> Activated:
        """Serve a version; the one that serves goes on until the new one is verified.

        Raises:
            NotFoundError: There is no such version.
            FailedPreconditionError: It is damaged, or its recall is too low.
        """
        async with self._locks.setdefault(tenant_name, asyncio.Lock()):
            tenant = self._tenants.get(tenant_name)
            if tenant.active.version.name == name:
                previous = tenant.previous.version.name if tenant.previous else ""
                return Activated(previous, await self._recall(tenant_name, tenant.active.version))
            serving = tenant.previous
            if serving is None or serving.version.name != name:
                serving = await self._bring_up(tenant, name)
            try:
                recall = await self._recall(tenant_name, serving.version)
                if recall < self._least_recall:
                    raise FailedPreconditionError(
                        f"the search of version {name} finds {recall:.3f} of the nearest,"
                        f" at least {self._least_recall} is asked for"
                    )
                before = tenant.active
                tenant.switch(serving)
            finally:
                if serving in tenant.building:
                    tenant.building.remove(serving)
            self._log.info("version activated", tenant=tenant_name, version=name, recall_at_10=recall)
            return Activated(before.version.name, recall)

    async def drop(self, tenant_name: str, name: str) -> None:
        """Free what a version holds here.

        Raises:
            FailedPreconditionError: It is the active one.
        """
        async with self._locks.setdefault(tenant_name, asyncio.Lock()):
            tenant = self._tenants.get(tenant_name)
            if tenant.active.version.name == name:
                raise FailedPreconditionError(f"version {name} is active: activate another one first", field="version")
            if tenant.previous is not None and tenant.previous.version.name == name:
                tenant.previous = None

    async def _bring_up(self, tenant: Tenant, name: str) -> Serving:
        version = await self._models.load(tenant.name, name, verify=True)
        serving = Serving(version, clock=self._clock)
        tenant.building.append(serving)  # from here on it hears what happens, the rest it reads
        try:
            async for changes in self._tail.replay(tenant.name, version.log_position):
                for change in changes:
                    serving.apply(change)
                await asyncio.sleep(0)
            await self._bring_up_content(tenant.name, serving)
        except BaseException:
            tenant.building.remove(serving)
            raise
        return serving

    async def _bring_up_content(self, tenant_name: str, serving: Serving) -> None:
        """See that the vectors of the version's encoder are there and indexed, without those of deleted items."""
        version = serving.version
        wanted = np.array([key for key in version.content_keys.tolist() if serving.catalogue.has(key)], np.int64)
        if len(wanted) and await self._content.needs_rebuild(tenant_name, version.encoder, wanted):
            space = Space(version.content_vectors.shape[1], Distance.COSINE)
            pages = self._content_pages(tenant_name, serving)
            await self._content.rebuild(tenant_name, version.encoder, space, pages)

    async def _content_pages(self, tenant_name: str, serving: Serving) -> AsyncIterator[Points]:
        """Give the version's content vectors with the fields of their items; those without an item are left out."""
        version = serving.version
        places = {int(key): place for place, key in enumerate(version.content_keys)}
        keys, rows, payloads = [], [], []
        mark = Mark(version.encoder, "")
        fields = self._models.fields(tenant_name, version.name)
        for key, item in zip(version.items.keys.tolist(), fields, strict=True):
            if key in places and serving.catalogue.has(key):
                keys.append(key)
                rows.append(places[key])
                payloads.append(Payload(item, mark))
            if len(keys) == _PAGE:
                yield Points(np.array(keys, np.int64), version.content_vectors[rows], payloads)
                keys, rows, payloads = [], [], []
        if keys:
            yield Points(np.array(keys, np.int64), version.content_vectors[rows], payloads)

    async def _recall(self, tenant_name: str, version: ModelVersion) -> float:
        """Measure the content search; 1 when there is nothing to search."""
        if not version.encoder:
            return 1.0
        async with self._content.reading(tenant_name, version.encoder) as index:
            if index is None:
                return 1.0
            report = await measure_recall(index, k=10, samples=_SAMPLES, selectivities=(1.0,))
            return report.measurements[0].recall
