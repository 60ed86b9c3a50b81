"""Policies, episodes and rewards in memory: the reference of what PolicyStore means."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TypeVar

from profile_store.domain.episodes import Episode, RecordPosition, RecordQuery, Reward
from profile_store.domain.policies import Policy, PolicyKey, PolicyPosition, PolicyPut, PutPolicyOutcome, next_version

Record = TypeVar("Record", Episode, Reward)


class MemoryPolicyStore:
    """Implements PolicyStore; nothing outlives the process."""

    def __init__(self) -> None:
        self._policies: dict[PolicyKey, Policy] = {}
        self._episodes: dict[tuple[str, str, str], Episode] = {}
        self._rewards: dict[tuple[str, str, str], Reward] = {}
        self._erased_until_ms: dict[tuple[str, str], int] = {}

    async def put_policies(self, puts: Sequence[PolicyPut], *, now_ms: int) -> Sequence[PutPolicyOutcome]:
        """See PolicyStore."""
        return [self._put(put, now_ms) for put in puts]

    async def get_policies(self, keys: Sequence[PolicyKey]) -> Sequence[Policy | None]:
        """See PolicyStore."""
        return [self._policies.get(key) for key in keys]

    async def list_policies(
        self, tenant: str, agent_id: str, user_id: str | None, *, after: PolicyPosition | None, limit: int
    ) -> Sequence[Policy]:
        """See PolicyStore."""
        found = sorted(
            (
                policy
                for key, policy in self._policies.items()
                if (key.tenant, key.agent_id) == (tenant, agent_id) and user_id in {None, key.user_id}
            ),
            key=attrgetter("key"),
        )
        start = ("", "") if after is None else (after.user_id, after.state)
        return [policy for policy in found if (policy.key.user_id, policy.key.state) > start][:limit]

    async def append_episodes(self, episodes: Sequence[Episode]) -> Sequence[bool]:
        """See PolicyStore."""
        return [self._append(self._episodes, episode) for episode in episodes]

    async def append_rewards(self, rewards: Sequence[Reward]) -> Sequence[bool]:
        """See PolicyStore."""
        return [self._append(self._rewards, reward) for reward in rewards]

    async def list_episodes(self, query: RecordQuery) -> Sequence[Episode]:
        """See PolicyStore."""
        return _page(list(self._episodes.values()), query)

    async def list_rewards(self, query: RecordQuery) -> Sequence[Reward]:
        """See PolicyStore."""
        return _page(list(self._rewards.values()), query)

    async def forget_user(self, tenant: str, user_id: str, *, until_ms: int) -> None:
        """See PolicyStore."""
        user = (tenant, user_id)
        self._erased_until_ms[user] = max(until_ms, self._erased_until_ms.get(user, until_ms))
        self._policies = {
            key: policy
            for key, policy in self._policies.items()
            if (key.tenant, key.user_id) != user or policy.created_at_ms > until_ms
        }
        self._episodes = {key: each for key, each in self._episodes.items() if not self._is_erased(each)}
        self._rewards = {key: each for key, each in self._rewards.items() if not self._is_erased(each)}

    def _put(self, put: PolicyPut, now_ms: int) -> PutPolicyOutcome:
        stored = self._policies.get(put.key)
        version = 0 if stored is None else stored.version
        if version != put.expected_version:
            return PutPolicyOutcome(applied=False, version=version)
        version = next_version(version, now_ms)
        created_at_ms = now_ms if stored is None else stored.created_at_ms
        self._policies[put.key] = Policy(put.key, put.document, version, created_at_ms, now_ms)
        return PutPolicyOutcome(applied=True, version=version)

    def _append(self, records: dict[tuple[str, str, str], Record], record: Record) -> bool:
        key = (record.tenant, record.agent_id, record.record_id)
        if key in records or self._is_erased(record):
            return False
        records[key] = record
        return True

    def _is_erased(self, record: Episode | Reward) -> bool:
        return record.occurred_at_ms <= self._erased_until_ms.get((record.tenant, record.user_id), 0)


def _page(records: Sequence[Record], query: RecordQuery) -> list[Record]:
    whose = (query.tenant, query.agent_id, query.user_id)
    found = [
        each
        for each in records
        if (each.tenant, each.agent_id, each.user_id) == whose and query.lower < _position(each) < query.upper
    ]
    return sorted(found, key=_position, reverse=query.newest_first)[: query.limit]


def _position(record: Episode | Reward) -> RecordPosition:
    return RecordPosition(record.occurred_at_ms, record.record_id)
