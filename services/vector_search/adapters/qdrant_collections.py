"""The collections of all tenants on a Qdrant server, which all replicas share.

What counts is said by aliases: `PREFIX.TENANT.content.ENCODER` serves, with `~previous` or `~building` behind it is
written along. Generation 0 of all tenants lies in one collection of the encoder, `PREFIX..content.ENCODER.0`:
thousands of small tenants would exhaust a server that kept a collection for each. A rebuild gives a tenant a collection
of its own, `PREFIX.TENANT.content.ENCODER.NUMBER`, and the alias is switched to it. A serving collection is read and
written by its alias, so that a switch counts for all replicas at the same moment.
"""

import asyncio
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from qdrant_client import models

from servicekit.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StartupError,
    UnavailableError,
)
from vector_search.adapters.qdrant_connection import QdrantConnection
from vector_search.adapters.qdrant_index import EXACT_BELOW, QdrantVectorIndex, add_index
from vector_search.adapters.qdrant_payload import of_tenant, standing_indexes
from vector_search.domain.dense import DenseIndex, Distance, Points, Space
from vector_search.domain.ports import Collection, Role, generation_of

_MAX_NAME = 255
_ADMIN_TIMEOUT_S = 60.0
_OPTIMISED_POLL_S = 0.2
_LINKS, _BUILD_BREADTH = 16, 128  # links of a point in the graph, and how many candidates are looked at to choose them
_DISTANCES = {Distance.COSINE: models.Distance.COSINE, Distance.DOT: models.Distance.DOT}
_ROLE_SUFFIXES = {"", *(role.value for role in Role)}


@dataclass(frozen=True, slots=True)
class QdrantLayout:
    """How collections lie on the nodes of a cluster.

    Args:
        shard_number: Parts of a collection; None leaves it to the server.
        replication_factor: Copies of each part.
        write_consistency_factor: Copies that must have a write before it is acknowledged.
        write_ordering: How writes of one point through several nodes are put in order.
    """

    shard_number: int | None = None
    replication_factor: int = 1
    write_consistency_factor: int = 1
    write_ordering: models.WriteOrdering = models.WriteOrdering.WEAK


@dataclass(frozen=True, slots=True)
class _Seen:
    aliases: Mapping[str, str]
    collections: frozenset[str]


class QdrantDenseStore:
    """A DenseStore that all replicas share.

    Args:
        connection: To the server; closed with the store.
        prefix: Begins every name, so that several deployments can use one server.
        layout: Of the collections that are made.
        build_timeout_s: How long making one collection may take.
    """

    def __init__(
        self, connection: QdrantConnection, *, prefix: str, layout: QdrantLayout, build_timeout_s: float
    ) -> None:
        self.is_shared = True
        self._connection = connection
        self._prefix = prefix
        self._layout = layout
        self._build_timeout_s = build_timeout_s
        self._opened: dict[tuple[str, str], QdrantVectorIndex] = {}
        self._described: dict[str, tuple[Space, set[str]]] = {}
        self._seen: _Seen | None = None

    async def check(self) -> None:
        """Ask whether the server can be used, once at start.

        Raises:
            UnavailableError: It cannot be reached.
            StartupError: It refuses our key, or an alias of ours points to a collection that does not exist.
        """
        seen = await self._look()
        for alias, target in seen.aliases.items():
            if alias.startswith(f"{self._prefix}.") and target not in seen.collections:
                raise StartupError(
                    f"Qdrant's alias {alias} points to the collection {target}, which does not exist: restore it from a"
                    " snapshot, or delete the alias, and the vectors are made anew"
                )

    async def survey(self) -> Mapping[str, Sequence[Collection]]:
        """Give the content collections that count, of all tenants."""
        seen = await self._look()
        found: dict[str, list[Collection]] = {}
        for alias, target in seen.aliases.items():
            parts = self._parts_of_alias(alias)
            if parts:
                tenant, model_id, role = parts
                found.setdefault(tenant, []).append(Collection(self._name_of(tenant, target), model_id, role=role))
        for collections in found.values():
            collections.sort(key=lambda each: (generation_of(each.name), each.place))
        return found

    async def current(self, tenant: str) -> Sequence[Collection]:
        """Give the content collections that count."""
        return (await self.survey()).get(tenant, [])

    async def assign(
        self, tenant: str, collections: Sequence[Collection], *, vacate: Sequence[Collection] = ()
    ) -> None:
        """Give collections their places."""
        seen = await self._look()
        taken = {self._alias(tenant, each): self._target(tenant, each.name) for each in collections}
        for each, target in zip(collections, taken.values(), strict=True):
            if target not in seen.collections:
                raise NotFoundError(f"tenant {tenant} has no collection {each.name}")
        # A new alias replaces the one of its name. Deleting that first would lose it, should the rest of the call fail.
        actions: list[models.AliasOperations] = [
            models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=target, alias_name=alias))
            for alias, target in taken.items()
        ]
        actions += [
            models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
            for alias in {self._alias(tenant, each) for each in vacate} - taken.keys()
            if alias in seen.aliases
        ]
        if actions:
            await self._connection.call(
                "switching aliases",
                lambda client: client.update_collection_aliases(actions, timeout=int(_ADMIN_TIMEOUT_S)),
                timeout_s=_ADMIN_TIMEOUT_S,
            )
        self._forget()

    async def names(self, tenant: str) -> Sequence[str]:
        """Give the complete collections of the tenant, with those of the first generation that it has a place in."""
        current = await self.current(tenant)
        seen = self._seen or await self._look()
        own = f"{self._prefix}.{_quoted(tenant)}."
        names = {name.removeprefix(own) for name in seen.collections if name.startswith(own)}
        return sorted(names | {each.name for each in current})

    async def open(self, tenant: str, name: str) -> DenseIndex:
        """Open a collection, by its alias when it serves; a second time gives the same."""
        target = self._target(tenant, name)
        seen = self._seen
        if seen is None or target not in seen.collections:
            seen = await self._look()
        if target not in seen.collections:
            raise NotFoundError(f"tenant {tenant} has no collection {name}")
        aliases = (
            alias
            for alias, pointed_to in seen.aliases.items()
            if pointed_to == target and (parts := self._parts_of_alias(alias)) and parts[::2] == (tenant, Role.SERVING)
        )
        asked = next(aliases, target)
        opened = self._opened.get((tenant, name))
        if opened is None or opened.collection != asked:
            space, indexed = await self._describe(target)
            opened = self._opened[tenant, name] = self._index(tenant, asked, space, indexed)
        return opened

    async def create(self, tenant: str, name: str, space: Space) -> DenseIndex:
        """Make an empty collection, or open the one of that name."""
        target = self._target(tenant, name)
        if len(target) > _MAX_NAME - len(Role.PREVIOUS):
            raise InvalidArgumentError(f"the names of tenant and encoder are too long for Qdrant: {target}")
        if await self._create(target, space):
            self._described.pop(target, None)
        self._forget()
        stored, indexed = await self._describe(target)
        if stored != space:  # it was there
            raise FailedPreconditionError(
                f"Qdrant's collection {target} holds {stored.dimensions} numbers a vector, not {space.dimensions}"
            )
        for path, params in standing_indexes().items():
            if path not in indexed:
                await add_index(self._connection, target, path, params)
                indexed.add(path)
        index = self._opened[tenant, name] = self._index(tenant, target, space, indexed)
        return index

    async def build(self, tenant: str, name: str, space: Space, pages: AsyncIterable[Points]) -> DenseIndex:
        """Make a collection of these points, and wait until the server has indexed them."""
        await self.drop(tenant, name)
        index = await self.create(tenant, name, space)
        try:
            async with asyncio.timeout(self._build_timeout_s):
                async for points in pages:
                    await index.upsert(points)
                await self._optimised(self._target(tenant, name))
        except BaseException as error:
            await self.drop(tenant, name)
            if isinstance(error, TimeoutError):
                raise UnavailableError(f"building {name} of {tenant} took over {self._build_timeout_s:g} s") from error
            raise
        return index

    async def drop(self, tenant: str, name: str) -> None:
        """Remove a collection; of one that others share, the tenant's points and its aliases."""
        self._opened.pop((tenant, name), None)
        target = self._target(tenant, name)
        seen = await self._look()
        if target not in seen.collections:
            return
        if generation_of(name):
            self._described.pop(target, None)
            await self._connection.call(
                "dropping a collection",
                lambda client: client.delete_collection(target, timeout=int(_ADMIN_TIMEOUT_S)),
                timeout_s=_ADMIN_TIMEOUT_S,
            )
        else:
            await self.assign(tenant, (), vacate=[each for each in await self.current(tenant) if each.name == name])
            chosen = models.FilterSelector(filter=of_tenant(tenant))
            await self._connection.call(
                "removing a tenant's vectors",
                lambda client: client.delete(target, chosen, wait=True, timeout=int(_ADMIN_TIMEOUT_S)),
                timeout_s=_ADMIN_TIMEOUT_S,
            )
        self._forget()

    async def close(self) -> None:
        """Close the connections."""
        self._opened.clear()
        await self._connection.close()

    async def _create(self, target: str, space: Space) -> bool:
        kilobytes = max(EXACT_BELOW * space.dimensions * 4 // 1024, 1)
        if space.distance is Distance.COSINE:
            hnsw = models.HnswConfigDiff(m=_LINKS, ef_construct=_BUILD_BREADTH, full_scan_threshold=kilobytes)
        else:
            # A graph over products finds a third of the nearest when lengths differ as popularity does.
            hnsw = models.HnswConfigDiff(m=0, payload_m=0)
        int8 = models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        )
        return await self._connection.make_collection(
            target,
            vectors_config=models.VectorParams(
                size=space.dimensions, distance=_DISTANCES[space.distance], on_disk=True
            ),
            hnsw_config=hnsw,
            quantization_config=int8,
            shard_number=self._layout.shard_number,
            replication_factor=self._layout.replication_factor,
            write_consistency_factor=self._layout.write_consistency_factor,
            timeout_s=_ADMIN_TIMEOUT_S,
        )

    async def _describe(self, target: str) -> tuple[Space, set[str]]:
        """Give what a collection's vectors are, and the paths of its payload indexes: one set for all tenants."""
        if target not in self._described:
            info = await self._connection.call("describing a collection", lambda client: client.get_collection(target))
            params = info.config.params.vectors
            if not isinstance(params, models.VectorParams):
                raise FailedPreconditionError(f"Qdrant's collection {target} is none of ours: its vectors have names")
            distances = {theirs: ours for ours, theirs in _DISTANCES.items()}
            self._described[target] = Space(params.size, distances[params.distance]), set(info.payload_schema or ())
        return self._described[target]

    async def _optimised(self, target: str) -> None:
        """Wait until what was added is indexed: not as long as that goes on, nor while it is still to begin."""
        while True:
            info = await self._connection.call("describing a collection", lambda client: client.get_collection(target))
            if info.status is models.CollectionStatus.GREEN:
                return
            if info.status is models.CollectionStatus.RED:
                raise UnavailableError(f"Qdrant says that {target} has failed: {info.optimizer_status}")
            await asyncio.sleep(_OPTIMISED_POLL_S)

    def _index(self, tenant: str, asked: str, space: Space, indexed: set[str]) -> QdrantVectorIndex:
        return QdrantVectorIndex(
            self._connection,
            asked,
            tenant=tenant,
            space=space,
            indexed=indexed,
            ordering=self._layout.write_ordering,
        )

    async def _look(self) -> _Seen:
        """See which aliases and collections there are."""
        # In this order: a collection is made before its alias, so no alias seems to point to nothing.
        aliases = await self._connection.call("listing aliases", lambda client: client.get_aliases())
        collections = await self._connection.collections()
        self._seen = _Seen(
            {each.alias_name: each.collection_name for each in aliases.aliases},
            collections,
        )
        return self._seen

    def _forget(self) -> None:
        """Look again before anything is opened: we have changed something."""
        self._seen = None

    def _target(self, tenant: str, name: str) -> str:
        return f"{self._prefix}.{_quoted(tenant) if generation_of(name) else ''}.{name}"

    def _name_of(self, tenant: str, target: str) -> str:
        shared = f"{self._prefix}.."
        return target.removeprefix(shared if target.startswith(shared) else f"{self._prefix}.{_quoted(tenant)}.")

    def _alias(self, tenant: str, collection: Collection) -> str:
        suffix = "" if collection.role is Role.SERVING else f"~{collection.role}"
        return f"{self._prefix}.{_quoted(tenant)}.content.{_quoted(collection.model_id)}{suffix}"

    def _parts_of_alias(self, alias: str) -> tuple[str, str, Role] | None:
        """Give tenant, encoder and role of an alias of ours."""
        named, _, role = alias.removeprefix(f"{self._prefix}.").partition("~")
        parts = named.split(".")
        is_ours = alias.startswith(f"{self._prefix}.") and role in _ROLE_SUFFIXES
        if not is_ours or len(parts) != 3 or parts[1] != "content":
            return None
        return unquote(parts[0]), unquote(parts[2]), Role(role or Role.SERVING)


def _quoted(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E").replace("~", "%7E")
