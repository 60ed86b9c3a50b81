"""Connects to a cluster; a configuration that is wrong is told in one line, a cluster that is away is waited for."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from cassandra import AuthenticationFailed, UnresolvableContactPoints
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable
from cassandra.policies import ExponentialReconnectionPolicy

from profile_store.adapters.cql import policies
from profile_store.adapters.cql.columns import ColumnsHandler
from profile_store.adapters.cql.errors import ERRORS, translated
from profile_store.adapters.cql.session import CqlSession, Statement
from servicekit.errors import StartupError

SCHEME = "cql"
_DEFAULT_PORT = 9042
_PROTOCOL = 4  # what Scylla and every Cassandra since 2.2 speak
_CONNECT_S = 5.0
_TRY_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class CqlAddress:
    """Where a keyspace is: contact points, their port, its name."""

    hosts: tuple[str, ...]
    port: int
    keyspace: str

    @classmethod
    def parse(cls, url: str) -> "CqlAddress":
        """Read `cql://host:port[,host:port]/keyspace`.

        Raises:
            StartupError: It is not of that form.
        """
        parts = urlsplit(url)
        keyspace = parts.path.removeprefix("/")
        try:
            places = [_host_and_port(place) for place in parts.netloc.split(",")]
        except ValueError:
            places = []
        ports = {port for _, port in places}
        if parts.scheme != SCHEME or len(ports) != 1 or not _is_name(keyspace):
            raise StartupError(
                f"PROFILE_STORE_URL is {url!r}: give cql://host:port[,host:port]/keyspace, with one port for all hosts"
            )
        return cls(tuple(host for host, _ in places), ports.pop(), keyspace)


@dataclass(frozen=True, slots=True, kw_only=True)
class CqlOptions:
    """How to connect; see the settings of the same names."""

    username: str = ""
    password: str = ""
    datacenter: str = ""
    timeout_s: float = 5.0
    speculative_delay_s: float = 0.1
    max_in_flight: int = 256
    scylla: bool = False
    wait_s: float = 30.0


class CqlConnection:
    """A connection to a cluster; `close` when done."""

    def __init__(self, cluster: Any, address: CqlAddress, options: CqlOptions) -> None:
        self.address = address
        self._cluster = cluster
        self._options = options
        self._schema_sessions: dict[str | None, Any] = {}

    @classmethod
    async def open(cls, address: CqlAddress, options: CqlOptions) -> Self:
        """Connect; wait for a cluster that cannot be reached for as long as the options say.

        Raises:
            StartupError: The credentials or the datacenter are wrong, or nobody was reached in time.
        """
        # The driver tells each attempt at length; what comes of them is told by this function, in one line.
        logging.getLogger("cassandra").setLevel(logging.CRITICAL)
        give_up = time.monotonic() + options.wait_s
        while True:
            try:
                cluster = await asyncio.to_thread(_connected, address, options)
            except (NoHostAvailable, UnresolvableContactPoints) as error:
                _refuse_if_final(error, address)
                if time.monotonic() >= give_up:
                    why = " ".join(f"{error.args[0] if error.args else error}".split())
                    raise StartupError(
                        f"no node of PROFILE_STORE_URL answers at {', '.join(address.hosts)} port {address.port} "
                        f"within {options.wait_s:g} s: start the cluster or correct the address ({why})"
                    ) from error
                await asyncio.sleep(_TRY_AGAIN_S)
            else:
                # Nor shall it tell every node that it finds.
                logging.getLogger("cassandra").setLevel(max(logging.WARNING, logging.getLogger().level))
                return cls(cluster, address, options)

    @property
    def datacenters(self) -> list[str]:
        """The names of the cluster's datacenters."""
        return _datacenters(self._cluster)

    @property
    def has_keyspace(self) -> bool:
        """Whether the keyspace exists."""
        return self.address.keyspace in self._cluster.metadata.keyspaces

    def check_keyspace(self) -> None:
        """Make sure that the keyspace exists.

        Raises:
            StartupError: It does not.
        """
        if not self.has_keyspace:
            raise StartupError(
                f"PROFILE_STORE_URL names the keyspace {self.address.keyspace}, which does not exist: "
                "run `recommend migrate`, which makes it, or correct the name"
            )

    async def session(self, statements: Iterable[Statement]) -> CqlSession:
        """Prepare the statements in the keyspace, which exists and is up to date."""
        loop = asyncio.get_running_loop()
        session: CqlSession = await in_thread(lambda: self._prepare(list(statements), loop))
        return session

    async def run(self, act: Callable[[Any], Any], *, in_keyspace: bool = True) -> Any:
        """Call a function with a session of the driver in a thread; for schemas, never while serving."""
        keyspace = self.address.keyspace if in_keyspace else None

        def work() -> Any:
            if keyspace not in self._schema_sessions:
                self._schema_sessions[keyspace] = self._cluster.connect(keyspace)
            return act(self._schema_sessions[keyspace])

        return await in_thread(work)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.to_thread(self._cluster.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _prepare(self, statements: Sequence[Statement], loop: asyncio.AbstractEventLoop) -> CqlSession:
        rows, columns = self._cluster.connect(), self._cluster.connect()
        columns.client_protocol_handler = ColumnsHandler
        prepared: Mapping[Statement, Any] = {
            each: _prepared(rows, each, each.text(self.address.keyspace, scylla=self._options.scylla))
            for each in statements
        }
        return CqlSession(
            rows,
            columns,
            prepared,
            loop=loop,
            max_in_flight=self._options.max_in_flight,
            timeout_s=self._options.timeout_s,
        )


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run something that waits for the driver, and translate what it raises."""
    try:
        return await asyncio.to_thread(work)
    except tuple(theirs for theirs, _ in ERRORS) as error:
        raise translated(error) from error


def _connected(address: CqlAddress, options: CqlOptions) -> Any:
    """Give a cluster that was reached and has the datacenter."""
    cluster = _cluster(address, options)
    try:
        cluster.connect().shutdown()
        _check_datacenter(cluster, options)
    except BaseException:
        cluster.shutdown()
        raise
    return cluster


def _cluster(address: CqlAddress, options: CqlOptions) -> Any:
    credentials = PlainTextAuthProvider(options.username, options.password) if options.username else None
    return Cluster(
        list(address.hosts),
        port=address.port,
        auth_provider=credentials,
        protocol_version=_PROTOCOL,
        execution_profiles=policies.execution_profiles(
            datacenter=options.datacenter,
            timeout_s=options.timeout_s,
            speculative_delay_s=options.speculative_delay_s,
        ),
        reconnection_policy=ExponentialReconnectionPolicy(0.25, 5.0),
        connect_timeout=_CONNECT_S,
        control_connection_timeout=_CONNECT_S,
        reprepare_on_up=False,  # a node that is back may serve at once; it asks for what it does not know
        monitor_reporting_enabled=False,
        application_name="profile_store",
    )


def _refuse_if_final(error: NoHostAvailable | UnresolvableContactPoints, address: CqlAddress) -> None:
    causes = error.errors if isinstance(getattr(error, "errors", None), Mapping) else {}
    if any(isinstance(cause, AuthenticationFailed) for cause in causes.values()):
        raise StartupError(
            f"the cluster at {address.hosts[0]}:{address.port} refuses the user and the password: "
            "correct SCYLLADB_USERNAME and SCYLLADB_PASSWORD"
        ) from error


def _check_datacenter(cluster: Any, options: CqlOptions) -> None:
    known = _datacenters(cluster)
    if options.datacenter and options.datacenter not in known:
        raise StartupError(
            f"CQL_DATACENTER is {options.datacenter!r} and the cluster has {', '.join(known)}: name one of these"
        )


def _datacenters(cluster: Any) -> list[str]:
    return sorted({host.datacenter for host in cluster.metadata.all_hosts() if host.datacenter})


def _prepared(session: Any, statement: Statement, text: str) -> Any:
    prepared = session.prepare(text)
    prepared.is_idempotent = statement.kind != "conditional"
    return prepared


def _host_and_port(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError(place)
    return parts.hostname, parts.port or _DEFAULT_PORT


def _is_name(keyspace: str) -> bool:
    return keyspace.isidentifier() and keyspace == keyspace.lower()
