"""Policies, episodes and rewards: messages to domain and back."""

from profile_store.convert.errors import element_error
from profile_store.domain.episodes import Episode, RecordQuery, Reward
from profile_store.domain.policies import Policy, PolicyConflictError, PolicyKey, PolicyPut
from recommendation.profile_store.v1 import policy_store_pb2 as pb
from servicekit.errors import InvalidArgumentError

_NEWEST_FIRST = {
    pb.TIME_ORDER_UNSPECIFIED: True,
    pb.TIME_ORDER_NEWEST_FIRST: True,
    pb.TIME_ORDER_OLDEST_FIRST: False,
}


def key_from_message(message: pb.PolicyKey) -> PolicyKey:
    """Read a policy's name."""
    return PolicyKey(message.tenant, message.agent_id, message.user_id, message.state)


def put_from_message(message: pb.PutPoliciesRequest.Put) -> PolicyPut:
    """Read a policy to write."""
    return PolicyPut(key_from_message(message.key), message.document, message.expected_version)


def put_result_to_message(
    outcome: int | PolicyConflictError | InvalidArgumentError,
) -> pb.PutPoliciesResponse.Result:
    """Write a new version, or why there is none."""
    if isinstance(outcome, PolicyConflictError):
        return pb.PutPoliciesResponse.Result(version=outcome.stored, error=element_error(outcome))
    if isinstance(outcome, InvalidArgumentError):
        return pb.PutPoliciesResponse.Result(error=element_error(outcome))
    return pb.PutPoliciesResponse.Result(version=outcome)


def policy_to_message(policy: Policy) -> pb.Policy:
    """Write a policy."""
    key = policy.key
    return pb.Policy(
        key=pb.PolicyKey(tenant=key.tenant, agent_id=key.agent_id, user_id=key.user_id, state=key.state),
        document=policy.document,
        version=policy.version,
        created_at_ms=policy.created_at_ms,
        updated_at_ms=policy.updated_at_ms,
    )


def get_result_to_message(found: Policy | InvalidArgumentError | None) -> pb.GetPoliciesResponse.Result:
    """Write a policy that was asked for, or why there is none."""
    if isinstance(found, InvalidArgumentError):
        return pb.GetPoliciesResponse.Result(error=element_error(found))
    return pb.GetPoliciesResponse.Result(policy=None if found is None else policy_to_message(found))


def episode_from_message(message: pb.Episode) -> Episode:
    """Read an episode."""
    return Episode(
        message.episode_id,
        message.tenant,
        message.agent_id,
        message.user_id,
        message.state,
        message.action,
        message.probability if message.HasField("probability") else None,
        message.document,
        message.occurred_at_ms,
    )


def episode_to_message(episode: Episode) -> pb.Episode:
    """Write an episode."""
    return pb.Episode(
        episode_id=episode.episode_id,
        tenant=episode.tenant,
        agent_id=episode.agent_id,
        user_id=episode.user_id,
        state=episode.state,
        action=episode.action,
        probability=episode.probability,
        document=episode.document,
        occurred_at_ms=episode.occurred_at_ms,
    )


def reward_from_message(message: pb.Reward) -> Reward:
    """Read a reward."""
    return Reward(
        message.reward_id,
        message.tenant,
        message.agent_id,
        message.user_id,
        message.episode_id,
        message.value,
        message.occurred_at_ms,
    )


def reward_to_message(reward: Reward) -> pb.Reward:
    """Write a reward."""
    return pb.Reward(
        reward_id=reward.reward_id,
        tenant=reward.tenant,
        agent_id=reward.agent_id,
        user_id=reward.user_id,
        episode_id=reward.episode_id,
        value=reward.value,
        occurred_at_ms=reward.occurred_at_ms,
    )


def record_query_from_message(message: pb.ListEpisodesRequest | pb.ListRewardsRequest) -> RecordQuery:
    """Read which episodes or rewards are wanted.

    Raises:
        InvalidArgumentError: The order is not known.
    """
    newest_first = _NEWEST_FIRST.get(message.order)
    if newest_first is None:
        raise InvalidArgumentError(f"order {message.order} is none that we know", field="order")
    return RecordQuery(
        tenant=message.tenant,
        agent_id=message.agent_id,
        user_id=message.user_id,
        from_ms=message.from_ms,
        until_ms=message.until_ms,
        newest_first=newest_first,
        limit=message.limit,
    )
