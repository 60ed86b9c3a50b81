"""The RPCs of ProfileStoreService: each reads the request, makes one call and writes the answer."""
# ruff: noqa: D102, N802 - the proto names and describes the methods

from collections.abc import AsyncIterator

from profile_store.application.profiles import ProfileService
from profile_store.convert import profiles as convert
from profile_store.convert.errors import element_error
from profile_store.domain.ports import PutOutcome
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.arrays import pack_floats, pack_keys, unpack_keys
from servicekit.errors import InvalidArgumentError

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ProfileStoreService"].full_name


class ProfileStoreServicer(pb_grpc.ProfileStoreServiceServicer):
    """The calls of the proto, where each is described."""

    def __init__(self, service: ProfileService) -> None:
        self._service = service

    async def GetUserContexts(self, request: pb.GetUserContextsRequest, _: object) -> pb.GetUserContextsResponse:
        contexts = await self._service.user_contexts(
            [convert.context_query_from_message(query) for query in request.queries]
        )
        return pb.GetUserContextsResponse(contexts=map(convert.context_to_message, contexts))

    async def AppendInteractions(
        self, request: pb.AppendInteractionsRequest, _: object
    ) -> pb.AppendInteractionsResponse:
        applied = await self._service.append(
            [convert.interaction_from_message(interaction) for interaction in request.interactions]
        )
        return pb.AppendInteractionsResponse(results=map(_append_result, applied))

    async def ListInteractions(self, request: pb.ListInteractionsRequest, _: object) -> pb.ListInteractionsResponse:
        interactions, next_cursor = await self._service.list_interactions(
            request.tenant, request.user_id, limit=request.limit, cursor=request.cursor
        )
        return pb.ListInteractionsResponse(
            interactions=map(convert.interaction_to_message, interactions), next_cursor=next_cursor
        )

    async def PutItems(self, request: pb.PutItemsRequest, _: object) -> pb.PutItemsResponse:
        outcomes = await self._service.put_items([convert.item_or_error(item) for item in request.items])
        return pb.PutItemsResponse(results=map(_put_result, outcomes))

    async def GetItems(self, request: pb.GetItemsRequest, _: object) -> pb.GetItemsResponse:
        items = await self._service.get_items(unpack_keys(request.item_keys, field="item_keys").tolist())
        return pb.GetItemsResponse(
            item_keys=pack_keys([item.ref.key for item in items]), items=map(convert.item_to_message, items)
        )

    async def DeleteItems(self, request: pb.DeleteItemsRequest, _: object) -> pb.DeleteItemsResponse:
        deleted = await self._service.delete_items(
            [convert.ref_from_message(ref) for ref in request.items], occurred_at_ms=request.occurred_at_ms
        )
        return pb.DeleteItemsResponse(deleted=deleted)

    async def ListItems(self, request: pb.ListItemsRequest, _: object) -> pb.ListItemsResponse:
        items, next_cursor = await self._service.list_items(
            request.tenant, request.item_type, limit=request.limit, cursor=request.cursor
        )
        return pb.ListItemsResponse(items=map(convert.item_to_message, items), next_cursor=next_cursor)

    async def PutInteractionTypes(
        self, request: pb.PutInteractionTypesRequest, _: object
    ) -> pb.PutInteractionTypesResponse:
        await self._service.put_interaction_types(
            request.tenant, [convert.type_from_message(kind) for kind in request.types]
        )
        return pb.PutInteractionTypesResponse()

    async def ListInteractionTypes(
        self, request: pb.ListInteractionTypesRequest, _: object
    ) -> pb.ListInteractionTypesResponse:
        kinds = await self._service.interaction_types(request.tenant)
        return pb.ListInteractionTypesResponse(types=map(convert.type_to_message, kinds))

    async def GetPopularity(self, request: pb.GetPopularityRequest, _: object) -> pb.GetPopularityResponse:
        lists = await self._service.most_popular(
            [convert.popularity_query_or_error(query) for query in request.queries]
        )
        return pb.GetPopularityResponse(results=map(convert.popularity_to_message, lists))

    async def ExportItems(self, request: pb.ExportItemsRequest, _: object) -> AsyncIterator[pb.ExportItemsResponse]:
        async for items in self._service.export_items(request.tenant, page_size=request.page_size):
            yield pb.ExportItemsResponse(items=map(convert.item_to_message, items))

    async def ExportInteractions(
        self, request: pb.ExportInteractionsRequest, _: object
    ) -> AsyncIterator[pb.ExportInteractionsResponse]:
        async for page in self._service.export_interactions(request.tenant, page_size=request.page_size):
            yield pb.ExportInteractionsResponse(
                user_keys=pack_keys(page.user_keys),
                item_keys=pack_keys(page.item_keys),
                weights=pack_floats(page.weights),
                times_ms=pack_keys(page.times_ms),
            )

    async def ExportUsers(self, request: pb.ExportUsersRequest, _: object) -> AsyncIterator[pb.ExportUsersResponse]:
        async for users in self._service.export_users(request.tenant, page_size=request.page_size):
            yield pb.ExportUsersResponse(
                users=(
                    pb.ExportUsersResponse.User(user_id=user.user_id, interaction_count=user.interaction_count)
                    for user in users
                )
            )

    async def ExportUser(self, request: pb.ExportUserRequest, _: object) -> AsyncIterator[pb.ExportUserResponse]:
        async for interactions in self._service.export_user(request.tenant, request.user_id):
            yield pb.ExportUserResponse(interactions=map(convert.interaction_to_message, interactions))

    async def EraseUser(self, request: pb.EraseUserRequest, _: object) -> pb.EraseUserResponse:
        count = await self._service.erase_user(request.tenant, request.user_id, until_ms=request.occurred_at_ms)
        return pb.EraseUserResponse(deleted_interactions=count)


def _append_result(outcome: bool | InvalidArgumentError) -> pb.AppendInteractionsResponse.Result:
    if isinstance(outcome, InvalidArgumentError):
        return pb.AppendInteractionsResponse.Result(error=element_error(outcome))
    return pb.AppendInteractionsResponse.Result(applied=outcome)


def _put_result(outcome: PutOutcome | InvalidArgumentError) -> pb.PutItemsResponse.Result:
    if isinstance(outcome, InvalidArgumentError):
        return pb.PutItemsResponse.Result(error=element_error(outcome))
    return pb.PutItemsResponse.Result(applied=outcome.applied, created=outcome.created)
