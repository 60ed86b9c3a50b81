"""The RPCs of PolicyStoreService: each reads the request, makes one call and writes the answer."""
# ruff: noqa: D102, N802 - the proto names and describes the methods

from profile_store.application.policies import PolicyService
from profile_store.convert import policies as convert
from profile_store.convert.errors import element_error
from recommendation.profile_store.v1 import policy_store_pb2 as pb
from recommendation.profile_store.v1 import policy_store_pb2_grpc as pb_grpc
from servicekit.errors import InvalidArgumentError

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["PolicyStoreService"].full_name


class PolicyStoreServicer(pb_grpc.PolicyStoreServiceServicer):
    """The calls of the proto, where each is described."""

    def __init__(self, service: PolicyService) -> None:
        self._service = service

    async def PutPolicies(self, request: pb.PutPoliciesRequest, _: object) -> pb.PutPoliciesResponse:
        outcomes = await self._service.put_policies([convert.put_from_message(put) for put in request.puts])
        return pb.PutPoliciesResponse(results=map(convert.put_result_to_message, outcomes))

    async def GetPolicies(self, request: pb.GetPoliciesRequest, _: object) -> pb.GetPoliciesResponse:
        found = await self._service.get_policies([convert.key_from_message(key) for key in request.keys])
        return pb.GetPoliciesResponse(results=map(convert.get_result_to_message, found))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, _: object) -> pb.ListPoliciesResponse:
        policies, next_cursor = await self._service.list_policies(
            request.tenant,
            request.agent_id,
            request.user_id if request.HasField("user_id") else None,
            limit=request.limit,
            cursor=request.cursor,
        )
        return pb.ListPoliciesResponse(policies=map(convert.policy_to_message, policies), next_cursor=next_cursor)

    async def AppendEpisodes(self, request: pb.AppendEpisodesRequest, _: object) -> pb.AppendEpisodesResponse:
        applied = await self._service.append_episodes([convert.episode_from_message(each) for each in request.episodes])
        return pb.AppendEpisodesResponse(results=map(_episode_result, applied))

    async def AppendRewards(self, request: pb.AppendRewardsRequest, _: object) -> pb.AppendRewardsResponse:
        applied = await self._service.append_rewards([convert.reward_from_message(each) for each in request.rewards])
        return pb.AppendRewardsResponse(results=map(_reward_result, applied))

    async def ListEpisodes(self, request: pb.ListEpisodesRequest, _: object) -> pb.ListEpisodesResponse:
        episodes, next_cursor = await self._service.list_episodes(
            convert.record_query_from_message(request), cursor=request.cursor
        )
        return pb.ListEpisodesResponse(episodes=map(convert.episode_to_message, episodes), next_cursor=next_cursor)

    async def ListRewards(self, request: pb.ListRewardsRequest, _: object) -> pb.ListRewardsResponse:
        rewards, next_cursor = await self._service.list_rewards(
            convert.record_query_from_message(request), cursor=request.cursor
        )
        return pb.ListRewardsResponse(rewards=map(convert.reward_to_message, rewards), next_cursor=next_cursor)


def _episode_result(outcome: bool | InvalidArgumentError) -> pb.AppendEpisodesResponse.Result:
    if isinstance(outcome, InvalidArgumentError):
        return pb.AppendEpisodesResponse.Result(error=element_error(outcome))
    return pb.AppendEpisodesResponse.Result(applied=outcome)


def _reward_result(outcome: bool | InvalidArgumentError) -> pb.AppendRewardsResponse.Result:
    if isinstance(outcome, InvalidArgumentError):
        return pb.AppendRewardsResponse.Result(error=element_error(outcome))
    return pb.AppendRewardsResponse.Result(applied=outcome)
