"""Opens the event log that the settings name."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from servicekit.clock import Clock, SystemClock
from servicekit.errors import StartupError
from servicekit.eventlog.kafka.options import SCHEME, KafkaOptions, parse_servers
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import EventLog, TopicSpec
from servicekit.eventlog.prefixed import PrefixedEventLog
from servicekit.eventlog.sqlite import SqliteEventLog
from servicekit.eventlog.topics import default_specs
from servicekit.settings import ServiceSettings


def open_event_log(url: str, *, clock: Clock | None = None, kafka: KafkaOptions | None = None) -> EventLog:
    """Open the log of a URL; nothing is read or made before the log is used.

    Args:
        url: `sqlite:///ABSOLUTE_FOLDER`, with `?sync=normal` to trade power-loss safety for speed, `memory://`, or
            `kafka://host:port[,host:port…]`.
        clock: Stamps records.
        kafka: How to reach a Kafka and to keep topics there.

    Raises:
        StartupError: The URL names no log that we know, or the options do not go together.
    """
    parts = urlsplit(url)
    clock = clock or SystemClock()
    if parts.scheme == "memory":
        return MemoryEventLog(clock=clock)
    if parts.scheme == SCHEME:
        return _open_kafka(url, kafka or KafkaOptions(), clock)
    sync = parse_qs(parts.query).get("sync", ["full"])[-1]
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.startswith("/") and sync in {"full", "normal"}:
        return SqliteEventLog(Path(parts.path), sync="full" if sync == "full" else "normal", clock=clock)
    raise StartupError(
        f"EVENT_LOG_URL is {url!r}, none of sqlite:///ABSOLUTE_FOLDER, sqlite:///ABSOLUTE_FOLDER?sync=normal,"
        " kafka://host:port[,host:port...], memory://"
    )


def event_log_of(settings: ServiceSettings, *, clock: Clock | None = None) -> EventLog:
    """Open the log that a service is told.

    Raises:
        StartupError: See open_event_log.
    """
    log = open_event_log(settings.event_log_url, clock=clock, kafka=kafka_options_of(settings))
    return PrefixedEventLog(log, settings.event_log_prefix) if settings.event_log_prefix else log


def topics_of(settings: ServiceSettings) -> Sequence[TopicSpec]:
    """Give every topic as a service is told to keep it."""
    return default_specs(
        settings.event_log_partitions,
        retention_days=settings.event_log_retention_days,
        dlq_retention_days=settings.event_log_dlq_retention_days,
    )


def kafka_options_of(settings: ServiceSettings) -> KafkaOptions:
    """Give what a service is told of Kafka."""
    return KafkaOptions(
        security_protocol=settings.kafka_security_protocol,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_username,
        password=settings.kafka_password.get_secret_value(),
        ssl_cafile=settings.kafka_ssl_cafile,
        ssl_certfile=settings.kafka_ssl_certfile,
        ssl_keyfile=settings.kafka_ssl_keyfile,
        ssl_password=settings.kafka_ssl_password.get_secret_value(),
        ssl_check_hostname=settings.kafka_ssl_check_hostname,
        replication_factor=settings.kafka_replication_factor,
        min_insync_replicas=settings.kafka_min_insync_replicas,
        client_rack=settings.kafka_client_rack,
        wait_s=settings.store_wait_s,
    )


def _open_kafka(url: str, options: KafkaOptions, clock: Clock) -> EventLog:
    from servicekit.eventlog.kafka.log import KafkaEventLog  # noqa: PLC0415 - who has no Kafka starts without its driver

    servers = parse_servers(url)
    if not servers:
        raise StartupError(f"EVENT_LOG_URL is {url!r}, not of the form kafka://host:port[,host:port...]")
    options.check()
    return KafkaEventLog(servers, options, clock=clock)
