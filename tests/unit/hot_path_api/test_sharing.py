"""What gateways share: when an answer may be given again, who is counted, and what is when the shared part is gone."""

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis import exceptions as theirs
from redis.asyncio.sentinel import MasterNotFoundError, SlaveNotFoundError

from hot_path_api.adapters.local_answer_cache import LocalAnswerCache
from hot_path_api.adapters.local_rate_limiter import LocalRateLimiter
from hot_path_api.adapters.redis_client import ERRORS, RedisSecrets, open_client
from hot_path_api.api.gate import _user_of
from hot_path_api.api.kept_lists import WrittenList, unpack
from hot_path_api.application.catalogue_epoch import CatalogueEpoch
from hot_path_api.application.rate_limits import Rate, RateLimits
from hot_path_api.application.shared_answers import Made, SharedAnswers
from hot_path_api.domain.limits import Budget, RateLimitedError, Verdict
from hot_path_api.domain.ports import Kept
from servicekit.errors import ServiceError, StartupError, UnavailableError
from servicekit.eventlog.port import TopicPartition


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Models:
    """ServingModels, as far as answers ask it."""

    version = "v1"

    def current(self, _tenant: str) -> "Models":
        return self


class GoneCache:
    """A shared cache that cannot be reached."""

    async def get(self, _key: str) -> Kept | None:
        raise UnavailableError("gone")

    async def put(self, _key: str, _value: bytes, *, fresh_s: float) -> None:
        raise UnavailableError(f"gone for {fresh_s}")


class GoneLimiter:
    """Shared buckets that cannot be reached."""

    async def take(self, _budgets: Sequence[Budget]) -> Verdict:
        raise UnavailableError("gone")


class Gateways:
    """Two gateways with a tier of their own each and one in common, and whoever makes answers."""

    def __init__(self, *, fresh_s: float = 30.0, shared: Any = None) -> None:
        self.time, self.models = Time(), Models()
        self.shared = shared or LocalAnswerCache(clock=self.time)
        self.epochs = [CatalogueEpoch(clock=self.time) for _ in range(2)]
        self.answers = [
            SharedAnswers(
                local=LocalAnswerCache(clock=self.time),
                shared=self.shared,
                models=self.models,  # type: ignore[arg-type]  # as far as they are asked
                epoch=epoch,
                fresh_s=fresh_s,
                clock=self.time,
            )
            for epoch in self.epochs
        ]
        self.made = 0
        self.whole = True
        self.answered_by: str | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def ask(self, gateway: int = 0, question: str = "q", tenant: str = "t") -> bytes:
        value, _ = await self.answers[gateway].get("popular", tenant, question, self._make)
        return value

    async def _make(self) -> Made:
        self.made += 1
        number = self.made
        await self.go_on.wait()
        return Made(b"%d" % number, self.answered_by or self.models.version, self.whole)


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_an_answer_is_made_once_for_all_gateways() -> None:
    gateways = Gateways()
    assert [await gateways.ask(number) for number in (0, 1, 0, 1)] == [b"1"] * 4
    assert await gateways.ask(question="other") == b"2"
    assert await gateways.ask(tenant="other") == b"3"


async def test_an_answer_gets_no_older_than_it_may_over_both_tiers() -> None:
    gateways = Gateways(fresh_s=0.8)
    assert await gateways.ask(0) == b"1"
    gateways.time.now += 0.7
    assert await gateways.ask(1) == b"1"
    gateways.time.now += 0.2
    assert await gateways.ask(1) == b"2"


async def test_who_comes_while_it_is_made_waits_for_it() -> None:
    gateways = Gateways()
    gateways.go_on.clear()
    asking = [asyncio.create_task(gateways.ask()) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # whoever asked first leaves
    gateways.go_on.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [b"1"] * 49


async def test_what_goes_wrong_is_told_to_all_and_not_kept() -> None:
    gateways = Gateways()

    async def fail() -> Made:
        raise UnavailableError("nobody there")

    for _ in range(2):
        told = await asyncio.gather(
            *(gateways.answers[0].get("popular", "t", "q", fail) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(error, UnavailableError) for error in told)
    assert await gateways.ask() == b"1"


async def test_a_degraded_answer_is_not_kept() -> None:
    gateways = Gateways()
    gateways.whole = False
    assert [await gateways.ask() for _ in range(2)] == [b"1", b"2"]


async def test_a_switch_of_models_is_answered_at_once() -> None:
    gateways = Gateways()
    await gateways.ask()
    gateways.models.version = "v2"
    assert await gateways.ask() == b"2"
    gateways.answered_by = "v1"  # a replica that is behind
    assert [await gateways.ask(question="x") for _ in range(2)] == [b"3", b"4"]


async def test_answers_are_kept_for_long_only_when_a_switch_has_settled() -> None:
    gateways = Gateways(fresh_s=30.0)
    await gateways.ask()
    gateways.time.now += 1.1
    assert await gateways.ask() == b"2"
    gateways.time.now += 60.0
    assert await gateways.ask() == b"3"
    gateways.time.now += 29.0
    assert await gateways.ask(1) == b"3"


async def test_a_change_of_the_catalogue_is_answered_by_whoever_has_heard_of_it() -> None:
    gateways = Gateways()
    for epoch in gateways.epochs:
        epoch.start_at({TopicPartition("content.changed", 0): 7, TopicPartition("content.changed", 1): 0})
    assert await gateways.ask(0) == await gateways.ask(1) == b"1"
    for gateway, expected in ((0, b"2"), (1, b"2")):
        gateways.time.now += 0.3
        gateways.epochs[gateway].heard(1, 0)
        assert await gateways.ask(gateway) == expected


def test_epochs_are_alike_when_the_same_was_heard_in_any_order() -> None:
    time = Time()
    one, other = CatalogueEpoch(clock=time), CatalogueEpoch(clock=time)
    names = {one.name, other.name}
    for partition, offset in ((0, 0), (1, 5), (0, 1)):
        one.heard(partition, offset)
    for partition, offset in ((0, 1), (0, 0), (1, 5)):
        other.heard(partition, offset)
    names |= {one.name, other.name}
    assert len(names) == 2
    one.heard(1, 6)
    assert one.name == other.name  # renewed a moment ago
    time.now += 0.25
    assert one.name != other.name


async def test_without_the_shared_tier_answers_stay_right() -> None:
    gateways = Gateways(shared=GoneCache())
    before = sample("degraded_total", source="redis", reason="unavailable")
    assert [await gateways.ask(number) for number in (0, 1, 0)] == [b"1", b"2", b"1"]
    gateways.models.version = "v2"
    assert await gateways.ask(0) == b"3"
    assert sample("degraded_total", source="redis", reason="unavailable") == before + 6


async def test_hits_and_misses_are_counted_by_tier() -> None:
    gateways = Gateways()

    def counts() -> list[float]:
        return [
            sample(f"cache_{what}_total", cache="popular", tier=tier)
            for what in ("hits", "misses")
            for tier in ("gateway", "redis")
        ]

    before = counts()
    for number in (0, 0, 1):
        await gateways.ask(number)
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [1, 1, 2, 1]


def test_a_list_is_unpacked_as_it_was_packed() -> None:
    for is_whole in (True, False):
        written = WrittenList("hybrid", b"abc", b'"x":"\\n"}', is_whole=is_whole)
        assert unpack(written.pack()) == written
        assert written.body("r1") == b'{"request_id":"r1","x":"\\n"}'


def limits(shared: Any = None, **rates: Rate) -> RateLimits:
    given = {"tenant": Rate(), "user": Rate()} | rates
    return RateLimits(**given, local=LocalRateLimiter(), shared=shared)


async def test_nobody_is_limited_where_there_are_no_limits() -> None:
    assert await limits().admit("t", "u") is None
    assert await limits(user=Rate(1.0)).admit("t") is None


async def test_tenants_and_users_are_counted() -> None:
    gate = limits(tenant=Rate(0.001, 5), user=Rate(0.001, 2))
    for _ in range(2):
        assert (await gate.admit("t", "u")) is not None
    with pytest.raises(RateLimitedError, match="one user") as told:
        await gate.admit("t", "u")
    assert told.value.verdict.budget.burst == 2
    with pytest.raises(RateLimitedError):
        await gate.admit_user("t", "u")
    for _ in range(3):
        await gate.admit("t")
    with pytest.raises(RateLimitedError, match="one tenant"):
        await gate.admit("t", "other")
    await gate.admit("t2", "u")
    await gate.admit("t/u", "")  # its name is not the user's
    await gate.admit_user("t", "other")


def test_a_burst_is_a_second_of_the_rate_when_nothing_else_is_said() -> None:
    assert [Rate(rate).budget("tenant", "t").burst for rate in (0.1, 1.0, 9.6)] == [1, 1, 10]
    assert Rate(5.0, 100).budget("tenant", "t").burst == 100


async def test_without_the_shared_buckets_each_gateway_counts_for_itself() -> None:
    before = sample("degraded_total", source="redis", reason="unavailable")
    gate = limits(shared=GoneLimiter(), tenant=Rate(0.001, 2))
    for _ in range(2):
        await gate.admit("t")
    with pytest.raises(RateLimitedError):
        await gate.admit("t")
    assert sample("degraded_total", source="redis", reason="unavailable") == before + 3


@pytest.mark.parametrize(
    ("path", "query", "user"),
    [
        ("/api/recommendations", b"", ""),
        ("/api/recommendations", b"limit=3&user_id=u%201&x=y", "u 1"),
        ("/api/recommendations", b"user_id=a+b", "a b"),
        ("/api/recommendations", b"not_user_id=a", ""),
        ("/api/recommendations", b"user_id=%FF%zz", "\ufffd%zz"),
        ("/api/v1/recommendations/user/a/b", b"user_id=x", "a/b"),
        ("/api/v1/interactions/user/u1", b"", "u1"),
    ],
)
def test_the_user_is_found_in_path_or_query(path: str, query: bytes, user: str) -> None:
    assert _user_of({"path": path, "query_string": query}) == user


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://host:port",
        "redis://host:70000",
        "redis://host/zero",
        "redis://host/0/1",
        "redis://a:1,b:2",
        "redis://:secret@host/x",
        "redis+sentinel://host:1",
        "redis+sentinel://host:1/name/x",
        "redis+cluster://host:1/0",
        "redis+cluster://,",
        "memcached://host",
        "host:6379",
    ],
)
def test_an_address_that_is_malformed_is_told_without_its_password(url: str) -> None:
    with pytest.raises(StartupError, match="REDIS_URL is") as told:
        open_client(url)
    assert "secret" not in str(told.value)


async def test_addresses_and_passwords_are_read() -> None:
    client, sentinels = open_client("rediss://me:p%40ss@host:7000/3")
    known = client.connection_pool.connection_kwargs  # type: ignore[union-attr]  # no cluster
    assert (known["host"], known["port"], known["db"], known["username"]) == ("host", 7000, 3, "me")
    assert known["password"] == "p@ss"  # noqa: S105 - the example's
    assert not sentinels
    client, sentinels = open_client("redis+sentinel://a,b:7/lists", RedisSecrets("given", "asked"))
    assert client.connection_pool.connection_kwargs["password"] == "given"  # type: ignore[union-attr]  # noqa: S105
    assert [each.connection_pool.connection_kwargs["password"] for each in sentinels] == ["asked", "asked"]


def test_no_exception_of_the_driver_passes() -> None:
    kinds = [kind for kind in vars(theirs).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    kinds += [MasterNotFoundError, SlaveNotFoundError]
    untold = {kind.__name__ for kind in kinds if not issubclass(kind, tuple(known for known, _ in ERRORS))}
    assert untold == {"ChildDeadlockedError"}  # of the blocking client, after a fork
    assert all(issubclass(ours, ServiceError) for _, ours in ERRORS)
