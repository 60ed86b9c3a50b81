"""profile_store as the command sees it: who the users are and what they have touched."""

from typing import Final

import numpy as np

from recommend_cli.clients.services import errors_told
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as rpc
from servicekit.arrays import unpack_keys
from servicekit.identity import user_key
from servicekit.rpc.client import RpcChannel

_EXPORT_S: Final = 60.0


async def read_touched_items(channel: RpcChannel, tenant: str) -> dict[str, frozenset[int]]:
    """Give the item keys that each user has touched, by the user's id."""
    stub = rpc.ProfileStoreServiceStub(channel.channel)
    users: list[str] = []
    touched: dict[int, set[int]] = {}
    with errors_told():
        async for users_page in channel.stream(
            stub.ExportUsers, pb.ExportUsersRequest(tenant=tenant), timeout_s=_EXPORT_S
        ):
            users += [user.user_id for user in users_page.users]
        async for page in channel.stream(
            stub.ExportInteractions, pb.ExportInteractionsRequest(tenant=tenant), timeout_s=_EXPORT_S
        ):
            user_keys = unpack_keys(page.user_keys, field="user_keys")
            item_keys = unpack_keys(page.item_keys, field="item_keys")
            ends = [*np.flatnonzero(np.diff(user_keys)) + 1, len(user_keys)]
            start = 0
            for end in ends if len(user_keys) else []:
                touched.setdefault(int(user_keys[start]), set()).update(item_keys[start:end].tolist())
                start = end
    return {user: frozenset(touched.get(user_key(tenant, user), ())) for user in users}
