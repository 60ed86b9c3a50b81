"""The topics of a cluster: made, changed, counted and measured, by blocking calls of one thread."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient
from kafka import errors as driver
from kafka import structs as wire
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove, OffsetSpec
from kafka.protocol.consumer import IsolationLevel

from servicekit.errors import NotFoundError
from servicekit.eventlog.kafka.client import connecting
from servicekit.eventlog.kafka.errors import error_from_kafka
from servicekit.eventlog.kafka.options import KafkaOptions
from servicekit.eventlog.kafka.voice import listen
from servicekit.eventlog.port import MAX_VALUE_BYTES, TopicPartition, TopicSpec, wrong_partitions

MAX_BATCH_BYTES: Final = MAX_VALUE_BYTES + (128 << 10)
"""A value of the longest, its key and its headers; the cluster's default leaves no room for the latter."""

_DAY_MS = 24 * 3600 * 1000
_WEEK_MS = 7 * _DAY_MS
_CALL_S = 8.0  # less than the bridge gives, so that the answer is the driver's
_CONNECT_MS = 3_000
_REQUEST_MS = 5_000
_PAUSE_S = 0.1

T = TypeVar("T")


class KafkaTopics:
    """What is asked of a cluster beside reading and appending; used by one thread, connects at the first question.

    Args:
        servers: Where to ask first.
        options: How to connect, and how new topics are copied.
    """

    def __init__(self, servers: Sequence[str], options: KafkaOptions) -> None:
        self._servers = list(servers)
        self._options = options
        self._voice = listen()
        self._admin: KafkaAdminClient | None = None

    def ensure(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog.ensure_topics."""
        wanted = {spec.name: spec for spec in specs}
        there = self._patiently(lambda admin: _existing(admin, wanted))
        missing = {name: self._new_topic(spec) for name, spec in wanted.items() if name not in there}
        if missing:
            self._patiently(lambda admin: _create(admin, missing))
            there |= self._patiently(lambda admin: _existing(admin, missing))
        for name, spec in wanted.items():
            if there.get(name, spec.partitions) != spec.partitions:
                raise wrong_partitions(spec, there[name])
        changing = [name for name in wanted if name not in missing]
        if changing:
            self._patiently(lambda admin: _change(admin, {name: _kept(wanted[name]) for name in changing}))

    def partitions(self, topics: Sequence[str]) -> Mapping[str, int]:
        """Give how many partitions each topic has.

        Raises:
            NotFoundError: A topic does not exist.
        """
        counts = self._patiently(lambda admin: _existing(admin, topics))
        if missing := [topic for topic in topics if topic not in counts]:
            raise NotFoundError(f"there is no topic {', '.join(missing)}; make it by ensure_topics")
        return counts

    def places(self, topics: Sequence[str]) -> list[TopicPartition]:
        """Give all partitions of these topics."""
        return [TopicPartition(name, n) for name, count in self.partitions(topics).items() for n in range(count)]

    def begin_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See EventLog."""
        return self._offsets(topics, OffsetSpec.EARLIEST)

    def end_offsets(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See EventLog."""
        return self._offsets(topics, OffsetSpec.LATEST)

    def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> dict[TopicPartition, int]:
        """See EventLog."""
        found = self._offsets(topics, max(0, timestamp_ms))
        if all(offset >= 0 for offset in found.values()):
            return found
        ends = self.end_offsets(topics)
        return {where: offset if offset >= 0 else ends[where] for where, offset in found.items()}

    def committed_offsets(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """See EventLog."""
        begin = self.begin_offsets(topics)
        places = [wire.TopicPartition(where.topic, where.partition) for where in begin]
        answer = self._patiently(lambda admin: admin.list_group_offsets({group: places}))[group]
        committed = {TopicPartition(where.topic, where.partition): said.offset for where, said in answer.items()}
        return {where: committed[where] if committed.get(where, -1) >= 0 else first for where, first in begin.items()}

    def members(self, group: str) -> int:
        """Give how many members a group has."""
        return len(self._patiently(lambda admin: admin.describe_groups([group]))[group]["members"])

    def remove_member(self, group: str, member_id: str) -> None:
        """Take a member out of a group."""
        self._patiently(lambda admin: admin.remove_group_members(group, [MemberToRemove(member_id=member_id)]))

    def close(self) -> None:
        """Close the connections."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _patiently(self, ask: Callable[[KafkaAdminClient], T]) -> T:
        """Ask again while the trouble is of the passing kind, with a new connection each time."""
        give_up = time.monotonic() + _CALL_S
        while True:
            try:
                return ask(self._connected())
            except driver.RetriableError as error:
                self.close()
                if time.monotonic() + _PAUSE_S > give_up:
                    raise driver.KafkaTimeoutError(f"{error}; {self._voice.trouble or 'no answer'}") from error
            time.sleep(_PAUSE_S)

    def _connected(self) -> KafkaAdminClient:
        if self._admin is None:
            self._voice.trouble = None
            try:
                with connecting(self._options) as settings:
                    self._admin = KafkaAdminClient(
                        bootstrap_servers=self._servers,
                        bootstrap_timeout_ms=_CONNECT_MS,
                        request_timeout_ms=_REQUEST_MS,
                        **settings,
                    )
            except driver.KafkaTimeoutError:
                if (trouble := _lasting(self._voice.trouble)) is not None:
                    raise trouble from None
                raise
        return self._admin

    def _offsets(self, topics: Sequence[str], when: OffsetSpec | int) -> dict[TopicPartition, int]:
        asked = {wire.TopicPartition(where.topic, where.partition): when for where in self.places(topics)}
        # A reader comes as far as the last stable offset: what lies behind it belongs to transactions that are open.
        answer = self._patiently(lambda admin: admin.list_partition_offsets(asked, IsolationLevel.READ_COMMITTED))
        return {TopicPartition(where.topic, where.partition): said.offset for where, said in answer.items()}

    def _new_topic(self, spec: TopicSpec) -> dict[str, Any]:
        copies = self._options.replication_factor
        segment_ms = _WEEK_MS if spec.retention_ms is None else min(_WEEK_MS, max(spec.retention_ms, 1))
        configs = {
            **_kept(spec),
            "max.message.bytes": str(MAX_BATCH_BYTES),
            "message.timestamp.type": "CreateTime",
            # What is still written to is neither compacted nor expired, so it must not be written to for too long.
            "segment.ms": str(min(segment_ms, _DAY_MS) if spec.compacted else segment_ms),
        }
        if self._options.min_insync_replicas is not None:
            configs["min.insync.replicas"] = str(self._options.min_insync_replicas)
        return {
            "num_partitions": spec.partitions,
            "replication_factor": -1 if copies is None else copies,
            "configs": configs,
        }


def _lasting(trouble: Exception | None) -> Exception | None:
    """Give the trouble with a connection if it will be the same next time."""
    if isinstance(trouble, driver.KafkaConnectionError) and "CERTIFICATE_VERIFY_FAILED" in str(trouble):
        trouble = driver.KafkaConfigurationError(f"{trouble}; see KAFKA_SSL_CAFILE")
    return trouble if isinstance(trouble, driver.KafkaError) and not trouble.retriable else None


def _existing(admin: KafkaAdminClient, topics: Sequence[str] | Mapping[str, Any]) -> dict[str, int]:
    """Give the partitions of those topics that are there."""
    found = {}
    for topic in admin.describe_topics(list(topics)):
        kind = driver.for_code(topic["error_code"])
        if kind is driver.NoError:
            found[topic["name"]] = len(topic["partitions"])
        elif kind is not driver.UnknownTopicOrPartitionError:
            raise kind(topic["name"])
    return found


def _kept(spec: TopicSpec) -> dict[str, str]:
    """Give what may change of a topic's keeping."""
    policy = "compact" if spec.compacted else "delete"
    if spec.compacted and spec.retention_ms is not None:
        policy = "compact,delete"
    return {
        "cleanup.policy": policy,
        "retention.ms": "-1" if spec.retention_ms is None else str(spec.retention_ms),
    }


def _create(admin: KafkaAdminClient, topics: Mapping[str, Mapping[str, Any]]) -> None:
    """Make topics; one that somebody else made meanwhile is as good."""
    answer = admin.create_topics(topics, timeout_ms=_REQUEST_MS, raise_errors=False)
    for topic in answer["topics"]:
        kind = driver.for_code(topic["error_code"])
        if kind not in {driver.NoError, driver.TopicAlreadyExistsError}:
            raise error_from_kafka(kind(f"making topic {topic['name']}: {topic['error_message']}")) from None
    admin.wait_for_topics(list(topics), timeout_ms=_REQUEST_MS)


def _change(admin: KafkaAdminClient, configs: Mapping[str, Mapping[str, str]]) -> None:
    """Give topics what they do not have yet of these."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, list(wanted)) for name, wanted in configs.items()]
    said = admin.describe_configs(asked, config_filter="all")["topic"]
    changes = []
    for name, wanted in configs.items():
        new = {key: value for key, value in wanted.items() if said[name].get(key, {}).get("value") != value}
        if new:
            changes.append(ConfigResource(ConfigResourceType.TOPIC, name, new))
    if not changes:
        return
    outcome = admin.alter_configs(changes, raise_on_unknown=False)["topic"]
    for name, result in outcome.items():
        if result != "OK":
            raise error_from_kafka(driver.InvalidConfigurationError(f"changing topic {name}: {result}")) from None
