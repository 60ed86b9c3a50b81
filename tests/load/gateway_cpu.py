"""How much CPU the gateway spends on a personal list: `python tests/load/gateway_cpu.py --help`.

The gateway runs in this process; canned services and the load run in processes of their own. It prints requests a
second, latencies and the gateway's CPU-microseconds a request, and the same for a bare FastAPI "hello" before it.
"""

# ruff: noqa: ARG002, N802, T201 - the shapes and names are those of the protos, and it prints its result

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import grpc.aio
import numpy as np
import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import SecretStr
from pyinstrument import Profiler

from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from recommendation.common.v1 import common_pb2
from recommendation.graph_service.v1 import graph_service_pb2, graph_service_pb2_grpc
from recommendation.profile_store.v1 import profile_store_pb2, profile_store_pb2_grpc
from recommendation.vector_search.v1 import vector_search_pb2, vector_search_pb2_grpc
from servicekit.arrays import pack_floats, pack_ints, pack_keys, unpack_keys
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.identity import item_key
from servicekit.rpc.server import GrpcServer
from servicekit.testing import eventually

ITEMS = 1_682
HISTORY = 100
CANDIDATES = 200
GRAPH = 100
VARIETY = 200
FEATURES = ("cooccurrence", "session", "transition", "content", "nearest", "factors", "log_popularity")
SERVING = """{"version": "v1", "sources": {"cooccurrence": {"weight": 1}, "session": {"weight": 1},
 "transition": {"weight": 1}, "content": {"weight": 1}}, "features": ["sqrt(cooccurrence)", "sqrt(session)",
 "sqrt(transition)", "sqrt(content)", "sqrt(graph)", "sqrt(factors)", "log_popularity"],
 "weights": [0.8, 0.14, 0.59, 0.11, 0.15, 0.5, -0.48], "fallback": []}"""


class _Profiles(profile_store_pb2_grpc.ProfileStoreServiceServicer):
    def __init__(self) -> None:
        draw = np.random.default_rng(1)
        self.items = {}
        for number in range(ITEMS):
            item = common_pb2.Item(
                tenant="default", item_type="film", item_id=str(number), title=f"A Film of Some Name {number} (1995)"
            )
            item.attributes["genres"].texts.values.extend(["Drama", "Comedy", "War"][: 1 + number % 3])
            item.attributes["year"].number = 1950 + number % 50
            item.attributes["directors"].texts.values.extend([f"Director {number % 200}"])
            self.items[item_key("default", "film", str(number))] = item
        self.keys = np.array(sorted(self.items))
        now_ms = int(time.time() * 1000)
        self.contexts = [
            profile_store_pb2.GetUserContextsResponse.UserContext(
                history_keys=pack_keys(draw.choice(self.keys, HISTORY, replace=False)),
                history_weights=pack_floats(np.ones(HISTORY)),
                history_times_ms=pack_keys(now_ms - 1000 * np.arange(HISTORY)),
                interaction_count=HISTORY,
            )
            for _ in range(VARIETY)
        ]

    async def GetUserContexts(self, request: Any, context: Any) -> Any:
        return profile_store_pb2.GetUserContextsResponse(
            contexts=[self.contexts[int(query.user_id) % VARIETY] for query in request.queries]
        )

    async def GetItems(self, request: Any, context: Any) -> Any:
        keys = [key for key in unpack_keys(request.item_keys, field="item_keys").tolist() if key in self.items]
        return profile_store_pb2.GetItemsResponse(item_keys=pack_keys(keys), items=[self.items[key] for key in keys])

    async def ListInteractionTypes(self, request: Any, context: Any) -> Any:
        return profile_store_pb2.ListInteractionTypesResponse()

    async def GetPopularity(self, request: Any, context: Any) -> Any:
        popular = profile_store_pb2.GetPopularityResponse.Popularity(
            item_keys=pack_keys(self.keys), scores=pack_floats(np.linspace(100, 1, ITEMS))
        )
        return profile_store_pb2.GetPopularityResponse(results=[popular] * len(request.queries))


class _Vectors(vector_search_pb2_grpc.VectorSearchServiceServicer):
    def __init__(self, profiles: _Profiles) -> None:
        draw = np.random.default_rng(2)
        self.answers = {}
        for context in profiles.contexts:
            free = np.setdiff1d(profiles.keys, unpack_keys(context.history_keys, field="history_keys"))
            self.answers[context.history_keys] = vector_search_pb2.RetrieveCandidatesResponse.Candidates(
                item_keys=pack_keys(draw.choice(free, CANDIDATES, replace=False)),
                features=pack_floats(draw.random((len(FEATURES), CANDIDATES))),
                because=pack_ints(draw.integers(0, HISTORY, CANDIDATES)),
                model_version="v1",
            )

    async def RetrieveCandidates(self, request: Any, context: Any) -> Any:
        return vector_search_pb2.RetrieveCandidatesResponse(
            results=[self.answers[query.history_keys] for query in request.queries], feature_names=FEATURES
        )

    async def DescribeVersions(self, request: Any, context: Any) -> Any:
        return vector_search_pb2.DescribeVersionsResponse(serving_json=SERVING)


class _Graph(graph_service_pb2_grpc.GraphServiceServicer):
    def __init__(self, profiles: _Profiles) -> None:
        draw = np.random.default_rng(3)
        self.answers = {}
        for context in profiles.contexts:
            free = np.setdiff1d(profiles.keys, unpack_keys(context.history_keys, field="history_keys"))
            self.answers[context.history_keys[:160]] = graph_service_pb2.ExpandUsersResponse.Candidates(
                item_keys=pack_keys(draw.choice(free, GRAPH, replace=False)),
                scores=pack_floats(draw.random(GRAPH)),
                because=pack_ints(draw.integers(0, 20, GRAPH)),
            )

    async def ExpandUsers(self, request: Any, context: Any) -> Any:
        return graph_service_pb2.ExpandUsersResponse(
            results=[self.answers[query.history_keys] for query in request.queries]
        )


def _serve(ports: Connection) -> None:
    async def main() -> None:
        profiles = _Profiles()  # type: ignore[abstract]  # only what is measured

        def register(server: grpc.aio.Server) -> None:
            profile_store_pb2_grpc.add_ProfileStoreServiceServicer_to_server(profiles, server)
            vector_search_pb2_grpc.add_VectorSearchServiceServicer_to_server(_Vectors(profiles), server)  # type: ignore[abstract]
            graph_service_pb2_grpc.add_GraphServiceServicer_to_server(_Graph(profiles), server)  # type: ignore[abstract]

        async with GrpcServer(host="127.0.0.1", port=0, service_names=(), register=register) as server:
            server.set_serving(True)
            ports.send(server.port)
            await asyncio.Event().wait()

    uvloop.run(main())


def _load(port: int, path: str, connections: int, seconds: float, results: Connection) -> None:
    async def worker(first: int, until: float, latencies: list[float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        user = first
        while time.perf_counter() < until:
            started = time.perf_counter()
            target = path.format(user=user)
            writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\n\r\n" % target.encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200") or (b'"degraded":[' in body and b'"degraded":[]' not in body):
                raise SystemExit(f"a bad answer: {head!r} {body[:300]!r}")
            latencies.append(time.perf_counter() - started)
            user += connections
        writer.close()

    async def main() -> None:
        latencies: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(worker(each, until, latencies) for each in range(connections)))
        results.send(latencies)

    uvloop.run(main())


@contextmanager
def _process(target: Any, *arguments: Any) -> Iterator[Connection]:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


async def _measure(name: str, port: int, path: str, connections: int, seconds: float) -> float:
    loop = asyncio.get_running_loop()
    with _process(_load, port, path, connections, seconds) as results:
        await asyncio.sleep(1.0)  # the process starts, and the first requests warm caches
        began, cpu = time.perf_counter(), time.process_time()
        latencies = await loop.run_in_executor(None, results.recv)
        spent, took = time.process_time() - cpu, time.perf_counter() - began
    # The load began before the clock did, so its own count is scaled to the time measured.
    requests = len(latencies) * took / seconds if took < seconds else len(latencies)
    rate = len(latencies) / seconds
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    print(
        f"{name:12} {connections:3} connections {rate:7.0f}/s  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  "
        f"CPU {spent / requests * 1e6:6.1f} us a request"
    )
    return rate


async def _hello(connections: int, seconds: float) -> float:
    app = FastAPI()

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"message": "hello"}

    server = uvicorn.Server(
        uvicorn.Config(app, port=0, loop="none", http="httptools", access_log=False, log_level="error", lifespan="off")
    )
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    rate = await _measure("hello", port, "/hello", connections, seconds)
    server.should_exit = True
    await task
    return rate


async def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--path", default="/api/recommendations?user_id={user}&limit=10")
    arguments = parser.parse_args()
    hello = await _hello(arguments.connections, arguments.seconds)
    with _process(_serve) as ports:
        endpoint = f"127.0.0.1:{await asyncio.get_running_loop().run_in_executor(None, ports.recv)}"
        settings = Settings(
            http_port=0,
            api_key=SecretStr("secret"),
            agentdb_endpoint=endpoint,
            vector_db_endpoint=endpoint,
            graph_db_endpoint=endpoint,
            gpu_worker_endpoint=endpoint,
            time_budget_ms=2000.0,
        )
        stop = asyncio.Event()
        log = MemoryEventLog(clock=SystemClock())
        async with gateway(settings, event_log=log) as running:
            task = asyncio.create_task(running.run(stop))
            await eventually(lambda: running.server.port)
            await asyncio.sleep(0.5)
            profiler = Profiler(async_mode="disabled") if arguments.profile else None
            if profiler:
                profiler.start()
            rate = await _measure(
                "gateway", running.server.port, arguments.path, arguments.connections, arguments.seconds
            )
            if profiler:
                profiler.stop()
                print(profiler.output_text(show_all=True, color=False))
            stop.set()
            await task
    print(f"ratio to hello {rate / hello:.3f}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    uvloop.run(main())
