"""Real servers of a test's own, which it may kill and freeze."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from servers.fleet import start_cassandra, start_kafka, start_neo4j, start_qdrant, start_redis, start_s3
from servers.server import Server
from servers.stores import Places, make_bucket

START: dict[str, Callable[[Path], Server]] = {
    "kafka": start_kafka,
    "cassandra": start_cassandra,
    "neo4j": start_neo4j,
    "qdrant": start_qdrant,
    "redis": start_redis,
    "s3": start_s3,
}


@contextmanager
def private_servers(folder: Path) -> Iterator[Places]:
    """Start one of each, all at once, and stop them at the end."""
    with ThreadPoolExecutor(len(START)) as pool:
        starting = {name: pool.submit(start, folder / name) for name, start in START.items()}
        try:
            servers = Places({name: each.result() for name, each in starting.items()})
            make_bucket(servers.by_name["s3"].port)
            yield servers
        finally:
            started = [each.result() for each in starting.values() if each.exception() is None]
            list(pool.map(lambda server: server.stop(), started))
