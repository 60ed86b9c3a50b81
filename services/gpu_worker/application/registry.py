"""Which version serves: activation, rollback, what is kept."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_worker.domain.ports import Announcer, ModelStore, VectorIndex
from gpu_worker.domain.versions import Active, Manifest, find_fault
from servicekit.errors import FailedPreconditionError, NotFoundError


@dataclass(frozen=True, slots=True)
class ModelListing:
    """A version as it is listed."""

    manifest: Manifest
    active: bool
    refused_because: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Which version serves, and how often that was changed here: going forth and back leaves the same version."""

    version: str
    switches: int


class ModelRegistry:
    """The versions of all tenants. One change of a tenant at a time.

    An activation goes through vector_search first, which builds and verifies; then `active.json` says it, then the
    log. After a crash in between the old version still stands in `active.json`, and activating again is right.

    Args:
        kept: How many versions are kept beside the active one and those that a rollback can reach.
    """

    def __init__(self, store: ModelStore, index: VectorIndex, announcer: Announcer, *, kept: int = 5) -> None:
        self._store = store
        self._index = index
        self._announcer = announcer
        self._kept = kept
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._switches: Counter[str] = Counter()

    async def models(self, tenant: str) -> Sequence[ModelListing]:
        """List the versions, newest first."""
        return await asyncio.to_thread(self._models, tenant)

    async def active(self, tenant: str) -> Active:
        """Tell which version serves."""
        return await asyncio.to_thread(self._store.active, tenant)

    async def standing(self, tenant: str) -> Standing:
        """Tell where a tenant stands, for an activation that shall only take the place of that."""
        return Standing((await self.active(tenant)).version, self._switches[tenant])

    async def activate(
        self, tenant: str, version: str, *, force: bool = False, instead_of: Standing | None = None
    ) -> str:
        """Make a version the one that serves, and give the one before.

        Args:
            tenant: Whose version.
            version: Its name.
            force: Even if it is worse.
            instead_of: Only if nothing was changed since, but by an activation of it that was broken off halfway.

        Raises:
            NotFoundError: There is no such version.
            FailedPreconditionError: It is worse than the active one or than popularity and `force` is not set,
                vector_search refuses it, or another one serves than it shall take the place of.
        """
        async with self._locks[tenant]:
            active = await asyncio.to_thread(self._store.active, tenant)
            if instead_of is not None and (
                active.version not in {instead_of.version, version} or self._switches[tenant] != instead_of.switches
            ):
                raise FailedPreconditionError(f"version {version} was not activated: another was chosen meanwhile")
            fault = await asyncio.to_thread(self._find_fault, tenant, version, active)
            if fault and not force:
                await asyncio.to_thread(self._note_refusal, tenant, version, fault)
                raise FailedPreconditionError(f"version {version} was not activated: {fault}")
            try:
                await self._switch(tenant, active.followed_by(version))
            except FailedPreconditionError as error:
                await asyncio.to_thread(self._note_refusal, tenant, version, error.message)
                raise
            await asyncio.to_thread(self._note_refusal, tenant, version, "")
            await asyncio.to_thread(self._delete_old, tenant)
            return active.version

    async def roll_back(self, tenant: str) -> str:
        """Go back to the version that served before, and give it.

        Raises:
            FailedPreconditionError: There is none.
        """
        async with self._locks[tenant]:
            active = await asyncio.to_thread(self._store.active, tenant)
            if not active.history:
                raise FailedPreconditionError("no version served before the active one")
            await self._switch(tenant, active.rolled_back())
            return active.history[0]

    async def announce_again(self) -> None:
        """Tell the log which versions serve, should a crash have come between an activation and its announcement."""
        for tenant in await asyncio.to_thread(self._store.tenants):
            active = await asyncio.to_thread(self._store.active, tenant)
            if active.version:
                await self._announcer.announce_model(tenant, active.version)

    async def delete_old(self, tenant: str) -> None:
        """Remove the versions that are kept no longer."""
        async with self._locks[tenant]:
            await asyncio.to_thread(self._delete_old, tenant)

    async def _switch(self, tenant: str, to: Active) -> None:
        await self._index.activate(tenant, to.version)
        await asyncio.to_thread(self._store.set_active, tenant, to)
        await self._announcer.announce_model(tenant, to.version)
        self._switches[tenant] += 1

    # --- in a thread ---

    def _models(self, tenant: str) -> list[ModelListing]:
        active = self._store.active(tenant).version
        refusals = self._store.refusals(tenant)
        listings = []
        for version in self._store.versions(tenant):
            try:
                manifest = self._store.manifest(tenant, version)
            except NotFoundError:  # deleted just now
                continue
            listings.append(ModelListing(manifest, version == active, refusals.get(version, "")))
        return listings

    def _find_fault(self, tenant: str, version: str, active: Active) -> str:
        candidate = self._store.manifest(tenant, version)
        if version == active.version:
            return ""
        try:
            serving = self._store.manifest(tenant, active.version) if active.version else None
        except NotFoundError:  # somebody has removed it from the store
            serving = None
        return find_fault(candidate, serving)

    def _note_refusal(self, tenant: str, version: str, reason: str) -> None:
        refusals = dict(self._store.refusals(tenant))
        refusals.pop(version, None)
        if reason:
            refusals[version] = reason
        existing = set(self._store.versions(tenant))
        self._store.set_refusals(tenant, {name: why for name, why in refusals.items() if name in existing})

    def _delete_old(self, tenant: str) -> None:
        active = self._store.active(tenant)
        needed = {active.version, *active.history}
        old = [version for version in self._store.versions(tenant) if version not in needed]
        for version in old[self._kept :]:
            self._store.delete(tenant, version)
