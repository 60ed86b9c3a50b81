"""Policies of agents, and the episodes and rewards that they learn from."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from profile_store.application.batches import for_each
from profile_store.domain.checks import check_at_most, check_count, check_length, limit_or_default
from profile_store.domain.cursors import policy_cursor, policy_position, record_cursor, record_position
from profile_store.domain.episodes import (
    END_OF_TIME_MS,
    Episode,
    RecordPosition,
    RecordQuery,
    Reward,
    check_episode,
    check_reward,
)
from profile_store.domain.interactions import check_user
from profile_store.domain.items import MAX_ID
from profile_store.domain.policies import (
    Policy,
    PolicyConflictError,
    PolicyKey,
    PolicyPosition,
    PolicyPut,
    check_agent,
    check_policy_key,
    check_put,
    named_before,
)
from profile_store.domain.ports import PolicyStore
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError

MAX_POLICIES = 100
MAX_RECORDS = 1_000
DEFAULT_POLICY_PAGE = 50
MAX_POLICY_PAGE = 100
DEFAULT_RECORD_PAGE = 100
MAX_RECORD_PAGE = 1_000

Record = TypeVar("Record", Episode, Reward)
Checked_contra = TypeVar("Checked_contra", Episode, Reward, contravariant=True)


class _Check(Protocol[Checked_contra]):
    def __call__(self, record: Checked_contra, /, *, now_ms: int) -> None: ...


class PolicyService:
    """What profile_store can do for agents; batches are answered per element."""

    def __init__(self, *, policies: PolicyStore, clock: Clock) -> None:
        self._policies = policies
        self._clock = clock

    async def put_policies(
        self, puts: Sequence[PolicyPut]
    ) -> Sequence[int | PolicyConflictError | InvalidArgumentError]:
        """Write each policy whose stored version is the expected one; give the new versions."""
        check_count(len(puts), "puts", MAX_POLICIES)
        twice = named_before(puts)

        async def write(checked: Sequence[PolicyPut]) -> Sequence[int | PolicyConflictError]:
            outcomes = await self._policies.put_policies(checked, now_ms=self._clock.now_ms())
            return [
                outcome.version if outcome.applied else PolicyConflictError(put.expected_version, outcome.version)
                for put, outcome in zip(checked, outcomes, strict=True)
            ]

        once = [
            InvalidArgumentError("an earlier element names the same policy", field="key") if place in twice else put
            for place, put in enumerate(puts)
        ]
        return await for_each(once, _checked_put, write)

    async def get_policies(self, keys: Sequence[PolicyKey]) -> Sequence[Policy | InvalidArgumentError | None]:
        """Give one answer for each key; None where there is no policy."""
        check_at_most(len(keys), "keys", MAX_POLICIES)
        return await for_each(keys, _checked_key, self._policies.get_policies)

    async def list_policies(
        self, tenant: str, agent_id: str, user_id: str | None, *, limit: int, cursor: str
    ) -> tuple[Sequence[Policy], str]:
        """Give a page of an agent's policies, or of one user's, and the cursor of the next, empty on the last."""
        check_agent(tenant, agent_id)
        check_length(user_id or "", "user_id", MAX_ID)
        limit = limit_or_default(limit, "limit", default=DEFAULT_POLICY_PAGE, most=MAX_POLICY_PAGE)
        found = await self._policies.list_policies(
            tenant, agent_id, user_id, after=policy_position(cursor), limit=limit + 1
        )
        if len(found) <= limit:
            return found, ""
        last = found[limit - 1].key
        return found[:limit], policy_cursor(PolicyPosition(last.user_id, last.state))

    async def append_episodes(self, episodes: Sequence[Episode]) -> Sequence[bool | InvalidArgumentError]:
        """Store episodes; tell which are new."""
        check_count(len(episodes), "episodes", MAX_RECORDS)
        return await self._append(episodes, check_episode, self._policies.append_episodes)

    async def append_rewards(self, rewards: Sequence[Reward]) -> Sequence[bool | InvalidArgumentError]:
        """Store rewards; tell which are new."""
        check_count(len(rewards), "rewards", MAX_RECORDS)
        return await self._append(rewards, check_reward, self._policies.append_rewards)

    async def list_episodes(self, query: RecordQuery, *, cursor: str) -> tuple[Sequence[Episode], str]:
        """Give a page of episodes and the cursor of the next; a limit or an end of 0 is the default."""
        return await _page(query, cursor, self._policies.list_episodes)

    async def list_rewards(self, query: RecordQuery, *, cursor: str) -> tuple[Sequence[Reward], str]:
        """Give a page of rewards and the cursor of the next; a limit or an end of 0 is the default."""
        return await _page(query, cursor, self._policies.list_rewards)

    async def _append(
        self,
        records: Sequence[Record],
        check: "_Check[Record]",
        append: Callable[[Sequence[Record]], Awaitable[Sequence[bool]]],
    ) -> Sequence[bool | InvalidArgumentError]:
        now_ms = self._clock.now_ms()

        def checked(record: Record) -> Record:
            check(record, now_ms=now_ms)
            return record

        return await for_each(records, checked, append)


async def _page(
    query: RecordQuery, cursor: str, read: Callable[[RecordQuery], Awaitable[Sequence[Record]]]
) -> tuple[Sequence[Record], str]:
    query = _checked_query(query)
    found = await read(replace(query, after=record_position(cursor), limit=query.limit + 1))
    if len(found) <= query.limit:
        return found, ""
    last = found[query.limit - 1]
    return found[: query.limit], record_cursor(RecordPosition(last.occurred_at_ms, last.record_id))


def _checked_query(query: RecordQuery) -> RecordQuery:
    check_agent(query.tenant, query.agent_id)
    check_user(query.tenant, query.user_id)
    for field, time_ms in (("from_ms", query.from_ms), ("until_ms", query.until_ms)):
        if time_ms < 0:
            raise InvalidArgumentError(f"{field} must not be negative, it is {time_ms}", field=field)
    until_ms = query.until_ms or END_OF_TIME_MS
    if until_ms < query.from_ms:
        raise InvalidArgumentError("until_ms lies before from_ms", field="until_ms")
    limit = limit_or_default(query.limit, "limit", default=DEFAULT_RECORD_PAGE, most=MAX_RECORD_PAGE)
    return replace(query, until_ms=until_ms, limit=limit)


def _checked_put(put: PolicyPut) -> PolicyPut:
    check_put(put)
    return put


def _checked_key(key: PolicyKey) -> PolicyKey:
    check_policy_key(key)
    return key
