"""What every AnswerCache promises."""

import pytest

from hot_path_api.domain.ports import AnswerCache
from servicekit.testing import eventually


class AnswerCacheContract:
    port = "AnswerCache"

    @pytest.fixture
    def cache(self) -> AnswerCache:
        raise NotImplementedError

    @pytest.fixture
    def key(self, unique_name: str) -> str:
        return unique_name

    async def test_what_was_never_kept_is_not_there(self, cache: AnswerCache, key: str) -> None:
        assert await cache.get(key) is None

    @pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)) * 100, '{"title":"Ключ"}'.encode() * 500])
    async def test_an_answer_is_given_as_it_was_kept(self, cache: AnswerCache, key: str, value: bytes) -> None:
        await cache.put(key, value, fresh_s=60.0)
        kept = await cache.get(key)
        assert kept is not None
        assert kept.value == value
        assert 0.0 < kept.fresh_s <= 60.0

    async def test_the_last_answer_counts(self, cache: AnswerCache, key: str) -> None:
        for value, fresh_s in ((b"first", 60.0), (b"second", 30.0)):
            await cache.put(key, value, fresh_s=fresh_s)
        kept = await cache.get(key)
        assert kept is not None
        assert kept.value == b"second"
        assert kept.fresh_s <= 30.0

    async def test_keys_are_apart(self, cache: AnswerCache, key: str) -> None:
        await cache.put(key, b"x", fresh_s=60.0)
        assert await cache.get(f"{key}2") is None

    async def test_an_answer_gets_old(self, cache: AnswerCache, key: str) -> None:
        await cache.put(key, b"x", fresh_s=0.05)

        async def is_gone() -> bool:
            return await cache.get(key) is None

        await eventually(is_gone)
