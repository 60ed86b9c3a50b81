"""Model versions: brought up beside the one that serves, verified, switched to in one step, rolled back, dropped."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import numpy as np

from servicekit.arrays import Keys
from servicekit.clock import Clock
from servicekit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    StartupError,
    UnavailableError,
)
from servicekit.logs import get_logger
from vector_search.application.content import ContentVectors
from vector_search.application.tenants import Serving, Tenant, Tenants
from vector_search.domain.dense import Distance, Mark, Payload, Points, Space
from vector_search.domain.model import ModelVersion
from vector_search.domain.patience import patient
from vector_search.domain.ports import ModelStore, Tail
from vector_search.domain.recall import measure_recall

_PAGE = 1_000
_SAMPLES = 100
_PATIENCE_S = 120.0  # so long one call of a slow or absent store is made again before an activation is given up


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
        self._gaps: dict[str, Keys] = {}
        self._log = get_logger(__name__)

    async def start(self, tenant_name: str) -> None:
        """Serve the version that shall serve, once at start and before changes are read; a damaged one is left out.

        Raises:
            StartupError: The stored content vectors are of another size than the version's.
        """
        await self._content.open(tenant_name)
        tenant = self._tenants.get(tenant_name)
        name = await self._models.active(tenant_name)
        if name:
            try:
                version = await self._models.load(tenant_name, name, verify=False)
            except (NotFoundError, FailedPreconditionError) as error:
                self._log.error("the active version cannot be served", tenant=tenant_name, error=error.message)
            else:
                self._check_size(tenant_name, version)
                tenant.switch(Serving(version, clock=self._clock))
                tenant.previous = None

    async def restore_content(self) -> None:
        """Make content vectors anew that are lost, as on a new replica's empty disk or after half a recovery.

        What the version has is taken from there. What was embedded since can only be embedded again: `find_gaps` tells.
        """
        for tenant in self._tenants:
            encoder = tenant.active.version.encoder
            known = self._known_vectors(tenant.active)
            if not len(known) or await self._count(tenant.name, encoder) >= len(known):
                continue
            if encoder:
                self._log.info("making content vectors from the version", tenant=tenant.name)
                await self._bring_up_content(tenant.name, tenant.active)
            lost = await self._content.lacking(tenant.name, encoder, known)
            if len(lost):
                self._log.warning("content vectors are lost until they are embedded again", tenant=tenant.name)
                self._gaps[tenant.name] = lost

    async def find_gaps(self) -> Mapping[str, int]:
        """Tell how many items of each tenant were embedded and have no vector any more."""
        for name, lost in list(self._gaps.items()):
            serving = self._tenants.find(name).active
            still = np.array([key for key in lost.tolist() if serving.catalogue.has(key)], np.int64)
            self._gaps[name] = await self._content.lacking(name, serving.version.encoder, still)
            if not len(self._gaps[name]):
                del self._gaps[name]
        return {name: len(lost) for name, lost in self._gaps.items()}

    async def activate(self, tenant_name: str, name: str, *, verified_by_another: bool = False) -> Activated:
        """Serve a version; the one that serves goes on until the new one is verified.

        Args:
            tenant_name: Whose version.
            name: Its name.
            verified_by_another: It was announced; where all replicas share the vectors, whoever announced it has
                seen to them and measured the search.

        Raises:
            NotFoundError: There is no such version.
            FailedPreconditionError: It is damaged, or its recall is too low.
            DeadlineExceededError: A store did not answer for minutes; what served goes on serving.
        """
        try:
            with patient(_PATIENCE_S):
                return await self._activate(tenant_name, name, verified_by_another=verified_by_another)
        except UnavailableError as error:
            # Not as it came: whoever calls would take it for a short absence, and try again at once.
            raise DeadlineExceededError(
                f"version {name} could not be verified, and what served before goes on serving: activate it again"
                f" when its stores answer ({error.message})"
            ) from error

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

    async def _activate(self, tenant_name: str, name: str, *, verified_by_another: bool) -> Activated:
        is_measured = verified_by_another and self._content.is_shared
        async with self._locks.setdefault(tenant_name, asyncio.Lock()):
            tenant = self._tenants.get(tenant_name)
            if tenant.active.version.name == name:
                previous = tenant.previous.version.name if tenant.previous else ""
                recall = 1.0 if is_measured else await self._recall(tenant_name, tenant.active.version)
                return Activated(previous, recall)
            serving = tenant.previous
            if serving is None or serving.version.name != name:
                serving = await self._bring_up(tenant, name, with_vectors=not is_measured)
            try:
                recall = 1.0 if is_measured else await self._recall(tenant_name, serving.version)
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

    async def _bring_up(self, tenant: Tenant, name: str, *, with_vectors: bool) -> Serving:
        version = await self._models.load(tenant.name, name, verify=True)
        serving = Serving(version, clock=self._clock)
        tenant.building.append(serving)  # from here on it hears what happens, the rest it reads
        try:
            async for changes in self._tail.replay(tenant.name, version.log_position):
                for change in changes:
                    serving.apply(change)
                await asyncio.sleep(0)
            if with_vectors:
                await self._bring_up_content(tenant.name, serving)
        except BaseException:
            tenant.building.remove(serving)
            raise
        return serving

    async def _bring_up_content(self, tenant_name: str, serving: Serving) -> None:
        """See that the vectors of the version's encoder are there and indexed, without those of deleted items."""
        version = serving.version
        wanted = np.array([key for key in version.content_keys.tolist() if serving.catalogue.has(key)], np.int64)
        if not len(wanted):
            return
        lacking = await self._content.lacking(tenant_name, version.encoder, wanted)
        if self._content.is_shared:
            async for points in self._content_pages(tenant_name, serving, set(lacking.tolist())):
                await self._content.write(tenant_name, version.encoder, points)
        elif len(lacking) or await self._content.has_outgrown(tenant_name, version.encoder):
            space = Space(version.content_vectors.shape[1], Distance.COSINE)
            pages = self._content_pages(tenant_name, serving, set(lacking.tolist()))
            await self._content.copy(tenant_name, version.encoder, space, pages)

    def _check_size(self, tenant_name: str, version: ModelVersion) -> None:
        stored = self._content.serving(tenant_name, version.encoder) if version.encoder else None
        size = version.content_vectors.shape[1]
        if stored is not None and stored.index.space.dimensions != size:
            raise StartupError(
                f"the stored vectors of tenant {tenant_name} by {version.encoder} have {stored.index.space.dimensions}"
                f" numbers, those of its active version have {size}: activate a version of the same encoder, or remove"
                f" the collection {stored.stored.name}, and it is made anew"
            )

    def _known_vectors(self, serving: Serving) -> Keys:
        """Give the items of which version and tail of the log say that they have a vector of the version's encoder."""
        encoder = serving.version.encoder
        since = {key for key, (model_id, _) in serving.embedded.items() if not encoder or model_id == encoder}
        known = since | set(serving.version.content_keys.tolist())
        return np.array(sorted(key for key in known if serving.catalogue.has(key)), np.int64)

    async def _count(self, tenant_name: str, encoder: str) -> int:
        async with self._content.reading(tenant_name, encoder) as index:
            return 0 if index is None else await index.count()

    async def _content_pages(self, tenant_name: str, serving: Serving, chosen: set[int]) -> AsyncIterator[Points]:
        """Give the chosen ones of the version's content vectors with the fields of their items."""
        version = serving.version
        places = {int(key): place for place, key in enumerate(version.content_keys) if int(key) in chosen}
        keys, rows, payloads = [], [], []
        states = zip(version.items.keys.tolist(), version.items.updated_at_ms.tolist(), strict=True)
        for (key, at_ms), item in zip(states, self._models.fields(tenant_name, version.name), strict=True):
            if key in places:
                keys.append(key)
                rows.append(places[key])
                payloads.append(Payload(item, Mark(version.encoder, "", at_ms)))
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
