import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from hot_path_api.application.reserve import Reserve
from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from hot_path_api.testing import World, twins
from recommendation.common.v1 import common_pb2
from recommendation.profile_store.v1 import profile_store_pb2
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.identity import item_key
from servicekit.testing import eventually

NOW_MS = 1_700_000_000_000


class Shop:
    """A running gateway before twins, with shorthands for what tests do."""

    def __init__(self, world: World, log: MemoryEventLog) -> None:
        self.world = world
        self.log = log
        self.client: httpx.AsyncClient

    def add_item(self, item_id: str, *, item_type: str = "film", **attributes: object) -> int:
        item = common_pb2.Item(
            tenant="default", item_type=item_type, item_id=item_id, title=f"Title {item_id}", updated_at_ms=1
        )
        for name, value in attributes.items():
            if isinstance(value, bool):
                item.attributes[name].flag = value
            elif isinstance(value, int | float):
                item.attributes[name].number = value
            elif isinstance(value, str):
                item.attributes[name].text = value
            elif isinstance(value, list):
                item.attributes[name].texts.values.extend(value)
        key = item_key("default", item_type, item_id)
        self.world.items[key] = item
        return key

    def add_interaction(self, user_id: str, item_id: str, kind: str = "view", value: float | None = None) -> None:
        done = self.world.interactions[f"default/{user_id}"]
        done.append(
            profile_store_pb2.Interaction(
                event_id=f"{user_id}-{item_id}-{len(done)}",
                tenant="default",
                user_id=user_id,
                item_type="film",
                item_id=item_id,
                interaction_type=kind,
                value=value,
                occurred_at_ms=NOW_MS + len(done),
            )
        )

    def link(self, source: str, item_id: str, *others: tuple[str, float]) -> None:
        pairs = [(item_key("default", "film", other), share) for other, share in others]
        key = item_key("default", "film", item_id)
        if source == "graph":
            self.world.related[key] = pairs
        else:
            self.world.neighbours[source][key] = pairs

    def train(self, **changes: object) -> None:
        """Make a model serve; takes effect when the gateway hears of it."""
        self.world.model_version = str(changes.get("version", "v1"))
        serving: dict[str, object] = {
            "version": self.world.model_version,
            "sources": {"cooccurrence": {"weight": 1.0}, "transition": {"weight": 1.0}, "content": {"weight": 1.0}},
            "features": ["sqrt(cooccurrence)", "sqrt(transition)", "sqrt(content)", "sqrt(graph)"],
            "weights": [1.0, 1.0, 0.5, 0.1],
            "fallback": [{"item_type": "film", "item_id": "1"}, {"item_type": "film", "item_id": "2"}],
        }
        self.world.serving_json = json.dumps(serving | changes)

    async def ids(self, path: str, **parameters: object) -> list[str]:
        return [item["item_id"] for item in (await self.list(path, **parameters))["items"]]

    async def list(self, path: str, **parameters: Any) -> dict[str, Any]:
        response = await self.client.get(path, params=parameters)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def more_settings() -> dict[str, Any]:
    """Settings of the gateway that differ from the usual; for a module to override."""
    return {}


@pytest.fixture
def nothing_in_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profiles go away before the gateway has read what is popular; asked for before the gateway."""

    async def nothing(_: Reserve) -> None:
        return

    monkeypatch.setattr(Reserve, "renew", nothing)


@pytest.fixture
async def shop(world: World, more_settings: dict[str, Any]) -> AsyncIterator[Shop]:
    """Nine films: 1, 2 and 3 are popular in this order; u1 saw 4, whose neighbours are 5, 6 and 7."""
    shop = Shop(world, MemoryEventLog(clock=SystemClock()))
    for number in range(1, 10):
        shop.add_item(str(number), genres=["Drama"] if number % 2 else ["Comedy", "War"], year=1990 + number)
    for item_id, count in (("1", 3), ("2", 2), ("3", 1)):
        for user in range(count):
            shop.add_interaction(f"crowd{user}", item_id)
    shop.add_interaction("u1", "4")
    shop.link("cooccurrence", "4", ("5", 0.9), ("6", 0.5))
    shop.link("content", "4", ("7", 0.8))
    shop.link("graph", "4", ("6", 0.3), ("8", 0.2))
    shop.train()
    async with twins(world) as endpoints:
        settings = Settings(
            http_port=0,
            auth_required=False,
            agentdb_endpoint=endpoints.profile_store,
            vector_db_endpoint=endpoints.vector_search,
            graph_db_endpoint=endpoints.graph_service,
            gpu_worker_endpoint=endpoints.gpu_worker,
            time_budget_ms=500.0,
            model_refresh_s=0.1,
            **more_settings,
        )
        stop = asyncio.Event()
        async with gateway(settings, event_log=shop.log) as running:
            task = asyncio.create_task(running.run(stop))
            await eventually(lambda: running.server.port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.server.port}", timeout=10.0) as client:
                shop.client = client

                async def is_up() -> bool:
                    health = (await client.get("/health")).json()
                    return bool(health["status"] == "ok" and health["model_version"] == "v1")

                await eventually(is_up)
                yield shop
            stop.set()
            await task
    await shop.log.close()
