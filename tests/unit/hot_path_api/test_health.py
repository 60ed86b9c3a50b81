"""When traffic may come."""

import asyncio

from hot_path_api.application.health import REQUIRED, Health


class Peer:
    def __init__(self, *, serves: bool) -> None:
        self.serves = serves

    async def is_serving(self) -> bool:
        return self.serves


async def test_it_waits_until_the_serving_model_is_known() -> None:
    known: list[str] = []
    health = Health({REQUIRED: Peer(serves=True)}, is_prepared=lambda: bool(known))
    assert not health.is_ready
    await health.look()
    assert not health.is_ready
    known.append("v1")
    assert health.is_ready
    known.clear()
    assert health.is_ready, "once ready, always ready"


async def test_it_does_not_wait_for_ever() -> None:
    health = Health({REQUIRED: Peer(serves=True)}, is_prepared=lambda: False, patience_s=0.05)
    await health.look()
    assert not health.is_ready
    await asyncio.sleep(0.1)
    assert health.is_ready


async def test_without_the_profile_store_it_is_not_ready() -> None:
    health = Health({REQUIRED: Peer(serves=False)}, is_prepared=lambda: True, patience_s=0.0)
    await health.look()
    assert not health.is_ready
