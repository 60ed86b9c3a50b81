"""What gateways share through a real Redis: one server, a cluster, one behind sentinels; what is when it is gone."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from contract.hot_path_api.answer_cache_contract import AnswerCacheContract
from contract.hot_path_api.rate_limiter_contract import HARDLY, RateLimiterContract
from redis import Redis
from servers.addresses import Addresses
from servers.certificates import write_certificate
from servers.fleet import start_redis
from servers.redis_server import RedisServer
from servers.server import free_port

from hot_path_api.adapters.redis_answer_cache import RedisAnswerCache
from hot_path_api.adapters.redis_client import MOST_CALLS, RedisConnection, RedisSecrets, open_redis
from hot_path_api.adapters.redis_rate_limiter import RedisRateLimiter
from hot_path_api.domain.limits import Budget
from servicekit.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    InternalError,
    ServiceError,
    StartupError,
    UnavailableError,
)
from servicekit.testing import eventually

pytestmark = pytest.mark.integration

NO_SECRETS = RedisSecrets()
PATIENT_S = 5.0  # these tests are not about speed


@asynccontextmanager
async def connected(
    url: str, secrets: RedisSecrets = NO_SECRETS, *, timeout_s: float = PATIENT_S
) -> AsyncIterator[RedisConnection]:
    redis = await open_redis(url, secrets=secrets, timeout_s=timeout_s)
    yield redis
    await redis.close()


class Sentinel(RedisServer):
    """Watches one server, which it calls `lists`."""

    watched_port = 0

    def prepare(self) -> None:
        conf = f"port {self.port}\nbind 127.0.0.1\nsentinel monitor lists 127.0.0.1 {self.watched_port} 1\n"
        (self.folder / "sentinel.conf").write_text(conf)

    def command(self) -> list[str]:
        return [super().command()[0], str(self.folder / "sentinel.conf"), "--sentinel"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one node."""
    with start_redis(tmp_path_factory.mktemp("cluster"), arguments=("--cluster-enabled", "yes")) as server:
        with Redis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                pass
        yield f"redis+cluster://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server behind one sentinel; a second address has none."""
    with start_redis(tmp_path_factory.mktemp("watched")) as server:
        sentinel = Sentinel(tmp_path_factory.mktemp("sentinel"), free_port(), server.settings)
        sentinel.watched_port = server.port
        with sentinel:
            sentinel.start()
            yield f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/lists"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may do anything to."""
    with start_redis(tmp_path / "redis") as server:
        yield server


class OnOneServer:
    @pytest.fixture
    async def redis(self, servers: Addresses) -> AsyncIterator[RedisConnection]:
        async with connected(servers.redis) as redis:
            yield redis


class OnACluster:
    @pytest.fixture
    async def redis(self, cluster: str) -> AsyncIterator[RedisConnection]:
        async with connected(cluster) as redis:
            yield redis


class BehindSentinels:
    @pytest.fixture
    async def redis(self, sentinels: str) -> AsyncIterator[RedisConnection]:
        async with connected(sentinels) as redis:
            yield redis


class RedisAnswerCacheContract(AnswerCacheContract):
    @pytest.fixture
    def cache(self, redis: RedisConnection) -> RedisAnswerCache:
        return RedisAnswerCache(redis)


class RedisRateLimiterContract(RateLimiterContract):
    @pytest.fixture
    def limiter(self, redis: RedisConnection) -> RedisRateLimiter:
        return RedisRateLimiter(redis)


class TestRedisAnswerCache(OnOneServer, RedisAnswerCacheContract):
    adapter = "redis"

    async def test_a_damaged_answer_is_an_error(self, cache: RedisAnswerCache, key: str, servers: Addresses) -> None:
        with Redis.from_url(servers.redis) as client:
            client.set(f"recommendation:answer:{key}", b"damaged", px=60_000)
        with pytest.raises(InternalError, match="damaged"):
            await cache.get(key)

    async def test_what_others_left_for_ever_is_not_given(
        self, cache: RedisAnswerCache, key: str, servers: Addresses
    ) -> None:
        await cache.put(key, b"x", fresh_s=60.0)
        with Redis.from_url(servers.redis) as client:
            client.persist(f"recommendation:answer:{key}")
            assert await cache.get(key) is None
            client.delete(f"recommendation:answer:{key}")


class TestClusterAnswerCache(OnACluster, RedisAnswerCacheContract):
    adapter = "redis cluster"


class TestSentinelAnswerCache(BehindSentinels, RedisAnswerCacheContract):
    adapter = "redis sentinel"


class TestRedisRateLimiter(OnOneServer, RedisRateLimiterContract):
    adapter = "redis"

    async def test_two_limiters_share_one_budget(
        self, limiter: RedisRateLimiter, tenant: str, servers: Addresses
    ) -> None:
        async with connected(servers.redis) as other:
            limiters = [limiter, RedisRateLimiter(other)] * 15
            budget = Budget("tenant", tenant, HARDLY, 10)
            verdicts = await asyncio.gather(*(each.take([budget]) for each in limiters))
        assert sum(verdict.admitted for verdict in verdicts) == 10

    async def test_a_server_that_forgot_the_script_gets_it_again(
        self, limiter: RedisRateLimiter, tenant: str, servers: Addresses
    ) -> None:
        budget = Budget("tenant", tenant, HARDLY, 10)
        assert (await limiter.take([budget])).remaining == 9
        with Redis.from_url(servers.redis) as client:
            client.script_flush()
        assert (await limiter.take([budget])).remaining == 8

    async def test_a_bucket_is_kept_no_longer_than_it_takes_to_fill(
        self, limiter: RedisRateLimiter, tenant: str, servers: Addresses
    ) -> None:
        with Redis.from_url(servers.redis) as client:
            before = set(client.scan_iter("recommendation:limit:*"))
            await limiter.take([Budget("tenant", tenant, 0.1, 10)])
            (bucket,) = set(client.scan_iter("recommendation:limit:*")) - before
            assert 0 < client.pttl(bucket) <= 10_002


class TestClusterRateLimiter(OnACluster, RedisRateLimiterContract):
    adapter = "redis cluster"


class TestSentinelRateLimiter(BehindSentinels, RedisRateLimiterContract):
    adapter = "redis sentinel"


async def why_not(url: str, password: str = "") -> str:
    """Give the one line that a start ends with."""
    with pytest.raises(StartupError) as told:
        await open_redis(url, secrets=RedisSecrets(password), timeout_s=PATIENT_S)
    line = str(told.value)
    assert "\n" not in line
    assert "wrong-one" not in line
    return line


async def test_a_wrong_password_stops_the_start(own: RedisServer) -> None:
    with Redis(port=own.port) as client:
        right = "right"
        client.config_set("requirepass", right)
    place = f"127.0.0.1:{own.port}"
    for password in ("", "wrong-one"):
        assert "REDIS_PASSWORD" in await why_not(f"redis://{place}", password)
    assert "REDIS_PASSWORD" in await why_not(f"redis://:wrong-one@{place}")
    async with connected(f"redis://{place}", RedisSecrets(right)) as redis:
        await RedisAnswerCache(redis).put("x", b"x", fresh_s=1.0)
    async with connected(f"redis://default:{right}@{place}/3") as redis:
        await RedisAnswerCache(redis).put("x", b"x", fresh_s=1.0)


class TlsSentinel(Sentinel):
    """Asks for a password and speaks TLS, to those who ask it and to the server that it watches."""

    tls_port, tls = 0, ""

    def prepare(self) -> None:
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ntls-port {self.tls_port}\n{self.tls}requirepass asked\n"
            f"sentinel monitor lists 127.0.0.1 {self.watched_port} 1\nsentinel auth-pass lists right\n"
        )

    def probe(self) -> None:
        with Redis(port=self.port, password="asked") as client:  # noqa: S106 - the example's
            client.ping()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls_addresses(tmp_path: Path, certificate: Path) -> Iterator[list[str]]:
    """One server, a cluster, and one behind a sentinel, all under TLS and with passwords."""
    port, cluster_port, sentinel_port = free_port(), free_port(), free_port()
    options = {
        "tls-cert-file": certificate,
        "tls-key-file": certificate,
        "tls-ca-cert-file": certificate,
        "tls-auth-clients": "no",
        "tls-replication": "yes",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    of_cluster = ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    with (
        start_redis(tmp_path / "one", arguments=("--tls-port", str(port), *arguments)) as one,
        start_redis(
            tmp_path / "cluster", arguments=("--tls-port", str(cluster_port), *arguments, *of_cluster)
        ) as cluster,
    ):
        with Redis(port=cluster.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                pass
        for server in (one, cluster):
            with Redis(port=server.port) as client:
                client.config_set("requirepass", "right")
        (tmp_path / "sentinel").mkdir()
        sentinel = TlsSentinel(tmp_path / "sentinel", free_port(), one.settings)
        sentinel.watched_port, sentinel.tls_port = port, sentinel_port
        sentinel.tls = "".join(f"{name} {value}\n" for name, value in options.items())
        with sentinel:
            sentinel.start()
            yield [
                f"rediss://127.0.0.1:{port}",
                f"rediss+cluster://127.0.0.1:{cluster_port}",
                f"rediss+sentinel://127.0.0.1:{sentinel_port}/lists",
            ]


async def test_tls_and_passwords_everywhere(tls_addresses: list[str], certificate: Path) -> None:
    for url in tls_addresses:
        async with connected(url, RedisSecrets("right", "asked", certificate)) as redis:
            cache = RedisAnswerCache(redis, prefix="shop:")
            await cache.put("x", b"kept", fresh_s=5.0)
            assert (kept := await cache.get("x")) is not None
            assert kept.value == b"kept"
            assert await RedisAnswerCache(redis, prefix="news:").get("x") is None
            for prefix in ("shop:", "news:"):  # each has buckets of its own
                verdict = await RedisRateLimiter(redis, prefix=prefix).take([Budget("tenant", url, 1.0, 5)])
                assert verdict.remaining == 4
    for url in tls_addresses:
        for secrets, remedy in (
            (RedisSecrets("wrong-one", "asked", certificate), "REDIS_PASSWORD"),
            (RedisSecrets("right", "asked"), "REDIS_CA_FILE"),
        ):
            with pytest.raises(StartupError, match=remedy):
                await open_redis(url, secrets=secrets, timeout_s=PATIENT_S)
    secrets = RedisSecrets("right", "wrong-one", certificate)
    with pytest.raises(StartupError, match="REDIS_SENTINEL_PASSWORD"):
        await open_redis(tls_addresses[-1], secrets=secrets, timeout_s=PATIENT_S)


async def test_an_address_of_another_kind_stops_the_start(servers: Addresses, sentinels: str) -> None:
    assert "is no cluster" in await why_not(servers.redis.replace("redis:", "redis+cluster:"))
    sentinel = sentinels.rpartition(",")[2].partition("/")[0]  # the one that is there
    assert "know no such service" in await why_not(f"redis+sentinel://{sentinel}/nobody")


async def test_a_redis_that_is_away_at_the_start_is_used_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    async with connected(f"redis://127.0.0.1:{port}") as redis:
        cache = RedisAnswerCache(redis)
        with pytest.raises(UnavailableError):
            await cache.get("x")
        with start_redis(tmp_path / "late", port):
            await eventually_works(cache)


async def test_a_redis_that_hangs_costs_the_first_calls_their_deadline_and_the_others_nothing(own: RedisServer) -> None:
    async with connected(own.address, timeout_s=0.05) as redis:
        cache = RedisAnswerCache(redis)
        await eventually_works(cache)
        own.pause()
        errors = [await error_of(cache) for _ in range(10)]
        assert errors[:3] == [DeadlineExceededError] * 3
        assert errors[3:] == [CircuitOpenError] * 7
        own.resume()
        await eventually_works(cache)


async def test_calls_that_hang_are_bounded(own: RedisServer) -> None:
    async with connected(own.address, timeout_s=0.05) as redis:
        cache = RedisAnswerCache(redis)
        await eventually_works(cache)
        own.pause()
        errors = await asyncio.gather(*(error_of(cache) for _ in range(200)))
        assert errors.count(UnavailableError) == 200 - MOST_CALLS
        own.resume()
        await eventually_works(cache)


async def test_a_redis_that_was_killed_is_used_again_when_it_is_back(own: RedisServer) -> None:
    async with connected(own.address, timeout_s=0.5) as redis:
        cache, limiter = RedisAnswerCache(redis), RedisRateLimiter(redis)
        budget = Budget("tenant", "t", HARDLY, 5)
        assert (await limiter.take([budget])).remaining == 4
        own.kill()
        assert await error_of(cache) is not None
        own.start()
        await eventually_works(cache)
        assert (await limiter.take([budget])).remaining == 3  # it had been written down


async def error_of(cache: RedisAnswerCache) -> type[ServiceError] | None:
    try:
        await cache.get("x")
    except ServiceError as error:
        return type(error)
    return None


async def eventually_works(cache: RedisAnswerCache) -> None:
    async def works() -> bool:
        return await error_of(cache) is None

    await eventually(works, timeout_s=20.0)
