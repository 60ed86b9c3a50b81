"""Answers kept in Redis, one cache for all gateways."""

import zlib
from typing import Any

from hot_path_api.adapters.redis_client import RedisConnection
from hot_path_api.domain.ports import Kept
from servicekit.errors import InternalError

_KEYS = "recommendation:answer:"
_MAX_BYTES = 256 << 10
_LEVEL = 1  # the quick one; what matters is said in few words, again and again


class RedisAnswerCache:
    """See AnswerCache. Answers travel and lie there compressed; very long ones are not kept.

    Args:
        redis: Where.
        prefix: Stands before all keys.
    """

    def __init__(self, redis: RedisConnection, *, prefix: str = "") -> None:
        self._redis = redis
        self._keys = prefix + _KEYS

    async def get(self, key: str) -> Kept | None:
        """See AnswerCache."""
        packed, fresh_ms = await self._redis.call(lambda client: _read(client, self._keys + key))
        if packed is None or fresh_ms <= 0:
            return None
        try:
            return Kept(zlib.decompress(packed), fresh_ms / 1000)
        except zlib.error as error:
            raise InternalError("an answer in Redis is damaged") from error

    async def put(self, key: str, value: bytes, *, fresh_s: float) -> None:
        """See AnswerCache."""
        packed = zlib.compress(value, _LEVEL)
        if len(packed) <= _MAX_BYTES:
            fresh_ms = max(round(fresh_s * 1000), 1)
            await self._redis.call(lambda client: client.set(self._keys + key, packed, px=fresh_ms))


async def _read(client: Any, key: str) -> tuple[bytes | None, int]:
    async with client.pipeline(transaction=False) as pipeline:
        packed, fresh_ms = await pipeline.get(key).pttl(key).execute()
    return packed, fresh_ms
