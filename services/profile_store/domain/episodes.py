"""What agents learn from: the decisions they made, and what came of them."""

from dataclasses import dataclass

from profile_store.domain.checks import check_id, check_not_future
from profile_store.domain.interactions import check_user
from profile_store.domain.policies import MAX_AGENT, MAX_STATE, check_document
from servicekit.errors import InvalidArgumentError

MAX_RECORD_ID = 64
MAX_ACTION = 255
MAX_CONTEXT_BYTES = 16 * 1024
MAX_REWARD = 1e6
END_OF_TIME_MS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Episode:
    """One decision of an agent."""

    episode_id: str
    tenant: str
    agent_id: str
    user_id: str
    state: str
    action: str
    probability: float | None
    document: bytes
    occurred_at_ms: int

    @property
    def record_id(self) -> str:
        """What identifies it among the agent's episodes."""
        return self.episode_id


@dataclass(frozen=True, slots=True)
class Reward:
    """What came of a decision."""

    reward_id: str
    tenant: str
    agent_id: str
    user_id: str
    episode_id: str
    value: float
    occurred_at_ms: int

    @property
    def record_id(self) -> str:
        """What identifies it among the agent's rewards."""
        return self.reward_id


@dataclass(frozen=True, slots=True, order=True)
class RecordPosition:
    """Where an episode or a reward stands: by time, then by id."""

    occurred_at_ms: int
    record_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordQuery:
    """Which episodes or rewards of an agent with one user.

    Args:
        tenant: Whose agent it is.
        agent_id: The agent.
        user_id: The user.
        from_ms: Where the range begins, itself within.
        until_ms: Where the range ends, itself without.
        newest_first: The direction.
        after: Where the page before ended, in that direction.
        limit: How many at most.
    """

    tenant: str
    agent_id: str
    user_id: str
    from_ms: int = 0
    until_ms: int = END_OF_TIME_MS
    newest_first: bool = True
    after: RecordPosition | None = None
    limit: int

    @property
    def lower(self) -> RecordPosition:
        """What all that is asked for lies behind; no id is empty."""
        start = RecordPosition(self.from_ms, "")
        return start if self.after is None or self.newest_first else max(start, self.after)

    @property
    def upper(self) -> RecordPosition:
        """What all that is asked for lies before."""
        end = RecordPosition(self.until_ms, "")
        return end if self.after is None or not self.newest_first else min(end, self.after)


def check_episode(episode: Episode, *, now_ms: int) -> None:
    """Refuse an episode that breaks the limits.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_id(episode.episode_id, "episode_id", MAX_RECORD_ID)
    _check_whose(episode, now_ms)
    check_id(episode.state, "state", MAX_STATE)
    check_id(episode.action, "action", MAX_ACTION)
    if episode.probability is not None and not 0.0 < episode.probability <= 1.0:
        raise InvalidArgumentError(
            f"probability must be above 0 and at most 1, not {episode.probability}", field="probability"
        )
    check_document(episode.document, MAX_CONTEXT_BYTES)


def check_reward(reward: Reward, *, now_ms: int) -> None:
    """Refuse a reward that breaks the limits.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_id(reward.reward_id, "reward_id", MAX_RECORD_ID)
    _check_whose(reward, now_ms)
    check_id(reward.episode_id, "episode_id", MAX_RECORD_ID)
    if not abs(reward.value) <= MAX_REWARD:
        raise InvalidArgumentError(f"value {reward.value} is not a number from -1e6 to 1e6", field="value")


def _check_whose(record: Episode | Reward, now_ms: int) -> None:
    check_user(record.tenant, record.user_id)
    check_id(record.agent_id, "agent_id", MAX_AGENT)
    check_not_future(record.occurred_at_ms, "occurred_at_ms", now_ms)
