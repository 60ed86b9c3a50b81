"""PolicyStore on CQL, each part done by the module that knows its tables."""

from collections.abc import Sequence

from profile_store.adapters.cql import agent_policies, footprints
from profile_store.adapters.cql.agent_records import EPISODES, REWARDS, CqlRecords
from profile_store.adapters.cql.footprints import POLICIES, Footprint
from profile_store.adapters.cql.histories import user_key_of
from profile_store.adapters.cql.session import CqlSession, gather
from profile_store.domain.episodes import Episode, RecordQuery, Reward
from profile_store.domain.policies import Policy, PolicyKey, PolicyPosition, PolicyPut, PutPolicyOutcome
from servicekit.clock import Clock


class CqlPolicyStore:
    """Implements PolicyStore; what one replica has written the others read at once."""

    def __init__(self, cql: CqlSession, clock: Clock, *, episodes_ttl_s: int) -> None:
        self._cql = cql
        self._records = CqlRecords(cql, clock, ttl_s=episodes_ttl_s)

    async def put_policies(self, puts: Sequence[PolicyPut], *, now_ms: int) -> Sequence[PutPolicyOutcome]:
        """See PolicyStore."""
        return await agent_policies.put_policies(self._cql, puts, now_ms)

    async def get_policies(self, keys: Sequence[PolicyKey]) -> Sequence[Policy | None]:
        """See PolicyStore."""
        return await agent_policies.get_policies(self._cql, keys)

    async def list_policies(
        self, tenant: str, agent_id: str, user_id: str | None, *, after: PolicyPosition | None, limit: int
    ) -> Sequence[Policy]:
        """See PolicyStore."""
        return await agent_policies.list_policies(self._cql, tenant, agent_id, user_id, after, limit)

    async def append_episodes(self, episodes: Sequence[Episode]) -> Sequence[bool]:
        """See PolicyStore."""
        return await self._records.append(EPISODES, episodes)

    async def append_rewards(self, rewards: Sequence[Reward]) -> Sequence[bool]:
        """See PolicyStore."""
        return await self._records.append(REWARDS, rewards)

    async def list_episodes(self, query: RecordQuery) -> Sequence[Episode]:
        """See PolicyStore."""
        return await self._records.page(EPISODES, query)

    async def list_rewards(self, query: RecordQuery) -> Sequence[Reward]:
        """See PolicyStore."""
        return await self._records.page(REWARDS, query)

    async def forget_user(self, tenant: str, user_id: str, *, until_ms: int) -> None:
        """See PolicyStore; the moment is noted first, so that nothing comes in behind it."""
        key = user_key_of(tenant, user_id)
        await footprints.put_erasure(self._cql, tenant, key, until_ms)
        found = await footprints.of_user(self._cql, tenant, key)
        await gather(self._forget(each, user_id, until_ms) for each in found)

    async def _forget(self, footprint: Footprint, user_id: str, until_ms: int) -> None:
        if footprint.kind == POLICIES:
            await agent_policies.erase_policies(self._cql, footprint, user_id, until_ms)
        else:
            await self._records.erase(footprint, until_ms)
