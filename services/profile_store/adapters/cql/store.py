"""The store on CQL: every port, each done by the module that knows its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Self

from profile_store.adapters.cql import (
    agent_policies,
    agent_records,
    feed,
    footprints,
    histories,
    interactions,
    items,
    snapshots,
    types,
)
from profile_store.adapters.cql.connection import CqlAddress, CqlConnection, CqlOptions
from profile_store.adapters.cql.feed import Feed
from profile_store.adapters.cql.histories import CqlHistories
from profile_store.adapters.cql.interactions import CqlInteractions
from profile_store.adapters.cql.migration_target import CqlMigrationTarget, schema
from profile_store.adapters.cql.policy_store import CqlPolicyStore
from profile_store.adapters.cql.popularity import CqlPopularity
from profile_store.adapters.cql.session import CqlSession, gather
from profile_store.adapters.cql.types import CqlTypes
from profile_store.domain.contexts import ContextQuery, UserContext
from profile_store.domain.interactions import (
    ExportPosition,
    Interaction,
    InteractionColumns,
    InteractionType,
    Position,
    StoredInteraction,
    UserCount,
)
from profile_store.domain.items import Item, ItemRef
from profile_store.domain.popularity import PopularityList, PopularityQuery
from profile_store.domain.ports import PutOutcome
from servicekit.clock import Clock
from servicekit.migrations import check

STATEMENTS = (
    *agent_policies.STATEMENTS,
    *agent_records.STATEMENTS,
    *feed.STATEMENTS,
    *footprints.STATEMENTS,
    *histories.STATEMENTS,
    *interactions.STATEMENTS,
    *items.STATEMENTS,
    *snapshots.STATEMENTS,
    *types.STATEMENTS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things are kept, in seconds; 0: for ever."""

    interactions_s: int = 0
    event_ids_s: int = 0
    episodes_s: int = 0


class CqlProfileStore:
    """Implements every port of profile_store, PolicyStore as `policies`; also an async context manager, made by `open`.

    Several of them may work on one keyspace, in as many processes. What one has written the others read at once, except
    interaction types and popularity, which they may see a quarter of a second later.
    """

    def __init__(
        self, connection: CqlConnection, cql: CqlSession, *, clock: Clock, random: Random, retention: Retention
    ) -> None:
        self.policies = CqlPolicyStore(cql, clock, episodes_ttl_s=retention.episodes_s)
        self._connection = connection
        self._cql = cql
        self._types = CqlTypes(cql, clock)
        self._histories = CqlHistories(cql, self._types, clock)
        self._popularity = CqlPopularity(cql, self._types, clock)
        self._feed = Feed(cql, clock, random, self._popularity.hear)
        self._popularity.use(self._feed)
        self._interactions = CqlInteractions(
            cql,
            self._feed,
            self._histories,
            clock,
            interactions_ttl_s=retention.interactions_s,
            event_ids_ttl_s=retention.event_ids_s,
        )

    @classmethod
    async def open(
        cls, address: CqlAddress, options: CqlOptions, *, clock: Clock, random: Random, retention: Retention
    ) -> Self:
        """Connect, check the schema and prepare the statements.

        Raises:
            StartupError: The configuration is wrong, the schema is behind, or the cluster was not reached in time.
        """
        connection = await CqlConnection.open(address, options)
        try:
            connection.check_keyspace()
            await check(CqlMigrationTarget(connection, scylla=options.scylla, replication_factor=0), schema())
            cql = await connection.session(STATEMENTS)
        except BaseException:
            await connection.close()
            raise
        return cls(connection, cql, clock=clock, random=random, retention=retention)

    async def close(self) -> None:
        """Finish what was begun and close all connections."""
        await self._interactions.close()
        await self._popularity.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- items

    async def put_items(self, items_: Sequence[Item]) -> Sequence[PutOutcome]:
        """See ItemStore."""
        outcomes, changed = await items.put_items(self._cql, items_)
        await self._tell(changed)
        return outcomes

    async def delete_items(self, refs: Sequence[ItemRef], *, occurred_at_ms: int) -> Sequence[bool]:
        """See ItemStore."""
        deleted, changed = await items.delete_items(self._cql, refs, occurred_at_ms)
        await self._tell(changed)
        return deleted

    async def get_items(self, keys: Sequence[int]) -> Sequence[Item]:
        """See ItemStore."""
        return await items.get_items(self._cql, keys)

    async def list_items(
        self, tenant: str, item_type: str | None, *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[Item]:
        """See ItemStore."""
        return await items.list_items(self._cql, tenant, item_type, after, limit)

    # --- interactions

    async def append(self, interactions_: Sequence[Interaction]) -> Sequence[bool]:
        """See InteractionStore."""
        return await self._interactions.append(interactions_)

    async def user_contexts(self, queries: Sequence[ContextQuery]) -> Sequence[UserContext]:
        """See InteractionStore."""
        return await self._histories.contexts(queries)

    async def list_interactions(
        self, tenant: str, user_id: str, *, newest_first: bool, after: Position | None, limit: int
    ) -> Sequence[StoredInteraction]:
        """See InteractionStore."""
        return await self._histories.page(tenant, user_id, newest_first=newest_first, after=after, limit=limit)

    async def export_interactions(self, tenant: str, *, after: ExportPosition | None, limit: int) -> InteractionColumns:
        """See InteractionStore."""
        return await self._histories.export(tenant, after=after, limit=limit)

    async def list_users(self, tenant: str, *, after: str, limit: int) -> Sequence[UserCount]:
        """See InteractionStore."""
        return await self._histories.users(tenant, after=after, limit=limit)

    async def erase_user(self, tenant: str, user_id: str, *, until_ms: int) -> int:
        """See InteractionStore."""
        return await self._interactions.erase_user(tenant, user_id, until_ms)

    # --- interaction types

    async def put_interaction_types(self, tenant: str, kinds: Sequence[InteractionType]) -> None:
        """See InteractionTypeStore."""
        if await self._types.put(tenant, kinds):
            await self._feed.ask_to_recount(tenant)
            await self._popularity.recount(tenant)

    async def interaction_types(self, tenant: str) -> Mapping[str, InteractionType]:
        """See InteractionTypeStore."""
        return (await self._types.of(tenant)).kinds

    # --- popularity

    async def most_popular(self, query: PopularityQuery, *, now_ms: int) -> PopularityList:
        """See PopularityStore."""
        return await self._popularity.most_popular(query, now_ms=now_ms)

    async def _tell(self, changed: set[tuple[str, int]]) -> None:
        """Tell the feeds which items may have changed."""
        by_tenant: dict[str, list[int]] = {}
        for tenant, key in changed:
            by_tenant.setdefault(tenant, []).append(key)
        await gather(self._feed.put_items(tenant, keys) for tenant, keys in by_tenant.items())
