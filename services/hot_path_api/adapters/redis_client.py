"""The connection to Redis: its addresses, a deadline of milliseconds for each call, the driver's errors as ours."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from redis import exceptions as theirs
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from servicekit.errors import (
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    StartupError,
    UnavailableError,
)
from servicekit.logs import get_logger
from servicekit.rpc.breaker import CircuitBreaker

T = TypeVar("T")

MOST_CALLS = 128
"""So many calls may be under way; one more is refused, which says nothing about Redis."""

# The first that fits.
ERRORS: Sequence[tuple[type[BaseException], type[ServiceError]]] = (
    (theirs.TimeoutError, DeadlineExceededError),
    (TimeoutError, DeadlineExceededError),
    (theirs.ConnectionError, UnavailableError),
    (theirs.ReadOnlyError, UnavailableError),  # a master that has just become a replica
    (theirs.ClusterError, UnavailableError),
    (theirs.AskError, UnavailableError),
    (theirs.TryAgainError, UnavailableError),
    (theirs.RedisClusterException, UnavailableError),
    (theirs.OutOfMemoryError, ResourceExhaustedError),
    (theirs.RedisError, InternalError),
    (theirs.IncorrectPolicyType, InternalError),
    (OSError, UnavailableError),
)
# These say that the server works, whatever it thinks of the call.
_ANSWERED = (InternalError, ResourceExhaustedError)
_REFUSALS = (theirs.AuthenticationError, theirs.AuthenticationWrongNumberOfArgsError, theirs.NoPermissionError)
_TLS = "rediss"
_KINDS = ("", "sentinel", "cluster")
_FORMS = "redis://HOST:PORT, redis+sentinel://HOST:PORT,…/SERVICE or redis+cluster://HOST:PORT,…, with rediss for TLS"
# A call that was given up goes on in the background for this long, so that slow handshakes come to an end.
_SOCKET_S = 1.0
_CHECK_S = 3.0


@dataclass(frozen=True, slots=True)
class RedisSecrets:
    """What lets us in.

    Args:
        password: Of the servers; goes before one in the address.
        sentinel_password: Of the sentinels.
        ca_file: Who vouches for the servers under TLS; None: those that the system trusts.
    """

    password: str = ""
    sentinel_password: str = ""
    ca_file: Path | None = None


class RedisConnection:
    """Calls Redis; whoever waits for it waits no longer than the deadline, and not at all while it hangs.

    Args:
        client: Speaks to one server, to the master that sentinels name, or to a cluster.
        sentinels: Those who name the master.
        timeout_s: How long a caller waits for one call.
        breaker: Stops calls after some failures in a row, and tries again after a while.
    """

    def __init__(
        self,
        client: "Redis | RedisCluster",
        *,
        sentinels: "Sequence[Redis]",
        timeout_s: float,
        breaker: CircuitBreaker,
    ) -> None:
        self._client = client
        self._sentinels = tuple(sentinels)
        self._timeout_s = timeout_s
        self._breaker = breaker
        self._calls: set[asyncio.Task[Any]] = set()
        self._log = get_logger(__name__)

    async def call(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Do something with the client.

        Raises:
            ServiceError: It failed, or was not tried.
        """
        if len(self._calls) >= MOST_CALLS:
            raise UnavailableError(f"{MOST_CALLS} calls to Redis are under way")
        self._breaker.before_call()
        try:
            answer = await self._within_deadline(work)
        except _ANSWERED:
            self._breaker.succeeded()
            raise
        except ServiceError:
            self._breaker.failed()
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        return answer

    async def check(self, *, url: str) -> None:
        """See at the start that Redis lets us in. One that cannot be reached is no reason not to start.

        Raises:
            StartupError: The password is wrong, or it is another kind of server than the address says.
        """
        task = asyncio.ensure_future(_ping(self._client))
        done, _ = await asyncio.wait((task,), timeout=_CHECK_S)
        error = task.exception() if done else None
        if not done:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if done and error is None:
            return
        place = urlsplit(url).netloc.rpartition("@")[2]
        told = _all_told(error)
        if isinstance(error, MasterNotFoundError):  # which does not say why the sentinels could not be asked
            asked = await asyncio.gather(*(sentinel.ping() for sentinel in self._sentinels), return_exceptions=True)
            told += [each for answer in asked if isinstance(answer, BaseException) for each in _all_told(answer)]
        if any(isinstance(each, _REFUSALS) or _asks_for_password(each) for each in told):
            raise StartupError(
                f"Redis at {place} does not let us in ({error}): correct REDIS_PASSWORD, or for sentinels "
                "REDIS_SENTINEL_PASSWORD"
            ) from error
        if any("certificate verify failed" in str(each).lower() for each in told):
            raise StartupError(
                f"Redis at {place} shows a certificate that we do not trust: set REDIS_CA_FILE"
            ) from error
        if isinstance(error, theirs.RedisClusterException) and "Cluster mode is not enabled" in str(error):
            raise StartupError(f"Redis at {place} is no cluster: write REDIS_URL as redis://HOST:PORT") from error
        if isinstance(error, MasterNotFoundError) and error.__context__ is None and "(" not in str(error):
            raise StartupError(f"the sentinels at {place} know no such service ({error}): correct REDIS_URL") from error
        self._log.warning("Redis is not reached; going on without", place=place, error=repr(error))

    async def close(self) -> None:
        """Give up what is under way, and close the connections."""
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for client in (self._client, *self._sentinels):
            await client.aclose()

    async def _within_deadline(self, work: Callable[[Any], Awaitable[T]]) -> T:
        task = asyncio.ensure_future(_translated(work(self._client)))
        self._calls.add(task)
        task.add_done_callback(self._ended)
        done, _ = await asyncio.wait((task,), timeout=self._timeout_s)
        if not done:
            # The answer may lie in the socket while this process was busy with others: let it be read.
            for _ in range(3):
                await asyncio.sleep(0)
            if not task.done():
                raise DeadlineExceededError(f"Redis did not answer within {self._timeout_s * 1000:.0f} ms")
        return task.result()

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, since nobody may be waiting any more


def open_client(url: str, secrets: RedisSecrets = RedisSecrets()) -> "tuple[Redis | RedisCluster, Sequence[Redis]]":
    """Make a client for an address, and those of the sentinels where there are any; connects to nothing yet.

    Raises:
        StartupError: The address is malformed.
    """
    parts = urlsplit(url)
    wrong = StartupError(f"REDIS_URL is {_without_password(url)!r}: write {_FORMS}")
    protocol, _, kind = parts.scheme.partition("+")
    if protocol not in ("redis", _TLS) or kind not in _KINDS or not parts.netloc or parts.query or parts.fragment:
        raise wrong
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, secret = user.partition(":")
    # A new connection costs fewer round trips without names of libraries.
    link: dict[str, Any] = {
        "socket_timeout": _SOCKET_S,
        "socket_connect_timeout": _SOCKET_S,
        "protocol": 2,
        "driver_info": None,
    }
    if protocol == _TLS:
        link["ssl_ca_certs"] = str(secrets.ca_file) if secrets.ca_file else None
    options: dict[str, Any] = link | {
        "username": unquote(username) or None,
        "password": secrets.password or unquote(secret) or None,
        "max_connections": MOST_CALLS,
        "retry": Retry(NoBackoff(), 1),  # once, for a connection that the server has closed in the meantime
    }
    # Where no scheme says it, the driver is told of TLS by an option.
    by_option: dict[str, Any] = {"ssl": True} if protocol == _TLS else {}
    path = [unquote(part) for part in parts.path.split("/") if part]
    try:
        places = [_place(each, default=26379 if kind == "sentinel" else 6379) for each in hosts.split(",")]
        if kind == "cluster":
            if path:
                raise wrong
            nodes = [ClusterNode(host, port) for host, port in places]
            return RedisCluster(startup_nodes=nodes, **options, **by_option), ()
        if kind == "sentinel":
            service, database = path[0], int(path[1]) if len(path) > 1 else 0
            # One sentinel that is away must not hold up the others: it is not asked twice.
            asking = link | by_option | {"retry": Retry(NoBackoff(), 0), "password": secrets.sentinel_password or None}
            sentinel = Sentinel(places, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]  # the driver's own
            return cast("Redis", sentinel.master_for(service, db=database, **options, **by_option)), sentinel.sentinels
        if len(places) != 1 or len(path) > 1 or (path and not path[0].isdigit()):
            raise wrong
        return Redis.from_pool(ConnectionPool.from_url(f"{protocol}://{hosts}/{''.join(path)}", **options)), ()
    except (ValueError, IndexError) as error:
        raise wrong from error


async def open_redis(url: str, *, secrets: RedisSecrets, timeout_s: float) -> RedisConnection:
    """Open the Redis at an address, and see that it lets us in.

    Raises:
        StartupError: The address or a password is wrong, or we do not trust its certificate.
    """
    breaker = CircuitBreaker("redis", failure_threshold=3, open_s=1.0)
    client, sentinels = open_client(url, secrets)
    connection = RedisConnection(client, sentinels=sentinels, timeout_s=timeout_s, breaker=breaker)
    try:
        await connection.check(url=url)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _ping(client: Any) -> None:
    await client.ping()


async def _translated(work: Awaitable[T]) -> T:
    try:
        return await work
    except tuple(kind for kind, _ in ERRORS) as error:
        ours = next(ours for kind, ours in ERRORS if isinstance(error, kind))
        raise ours(f"Redis: {str(error) or type(error).__name__}") from error


def _place(text: str, *, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or default


def _all_told(error: BaseException | None) -> list[BaseException]:
    """Give an error and what it came of: a cluster's or a sentinel's says little by itself."""
    told: list[BaseException] = []
    while error is not None and error not in told:
        told.append(error)
        error = error.__cause__ or error.__context__
    return told


def _asks_for_password(error: BaseException) -> bool:
    return any(word in str(error) for word in ("NOAUTH", "WRONGPASS", "Authentication required"))


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
