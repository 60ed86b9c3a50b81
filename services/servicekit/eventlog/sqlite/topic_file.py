"""One topic in one SQLite file: a table per partition, appended to at its end."""

import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path

from servicekit.errors import InvalidArgumentError, NotFoundError
from servicekit.eventlog.partitions import partition_of
from servicekit.eventlog.port import NewRecord, Record, TopicPartition, TopicSpec, wrong_partitions
from servicekit.eventlog.sqlite.connection import Checkpointer, Sync, connect, write_transaction

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
TOPIC_SUFFIX = ".topic.sqlite3"

_MAINTENANCE_STEP = 2_000
_POLL_BYTES = 16 << 20

_SCHEMA = (
    "CREATE TABLE topic (retention_ms INTEGER, compacted INTEGER NOT NULL)",
    "CREATE TABLE partitions (number INTEGER PRIMARY KEY, end_offset INTEGER NOT NULL, compacted_to INTEGER NOT NULL)",
)
_PARTITION_SCHEMA = (
    "CREATE TABLE p{0} (record_offset INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT,"
    " timestamp_ms INTEGER NOT NULL)"
)


class TopicFile:
    """A topic's records and how far each partition goes.

    An instance holds one connection, which one thread uses at a time. Several processes may have the file open.

    Raises:
        NotFoundError: The topic was never made.
    """

    def __init__(self, folder: Path, name: str, *, sync: Sync) -> None:
        self.name = name
        self.path = folder / f"{name}{TOPIC_SUFFIX}"
        if not self.path.exists():
            raise NotFoundError(f"there is no topic {name}; make it by ensure_topics")
        self._connection = connect(self.path, sync=sync)
        try:
            rows = self._connection.execute("SELECT number FROM partitions ORDER BY number").fetchall()
        except sqlite3.OperationalError:  # another process has made the file and not yet filled it
            rows = []
        if not rows:
            self._connection.close()
            raise NotFoundError(f"there is no topic {name}; make it by ensure_topics")
        self.partitions = len(rows)
        self.places = tuple(TopicPartition(name, number) for number in range(self.partitions))
        self._checkpointer = Checkpointer(self._connection, self.path)

    @staticmethod
    def ensure(folder: Path, spec: TopicSpec) -> None:
        """Make the topic, or change how it is kept.

        Raises:
            StartupError: It exists with another number of partitions.
        """
        if not _NAME.fullmatch(spec.name) or spec.partitions < 1:
            raise InvalidArgumentError(f"{spec} has no usable name or no partition")
        with closing(connect(folder / f"{spec.name}{TOPIC_SUFFIX}")) as connection:
            if _read_spec(connection, spec.name) == spec:
                return  # as at every start but the first
            with write_transaction(connection):
                if _read_spec(connection, spec.name) is None:
                    for statement in _SCHEMA:
                        connection.execute(statement)
                    connection.execute("INSERT INTO topic VALUES (NULL, 0)")
                    for number in range(spec.partitions):
                        connection.execute("INSERT INTO partitions VALUES (?, 0, 0)", (number,))
                        connection.execute(_PARTITION_SCHEMA.format(number))
                (partitions,) = connection.execute("SELECT count(*) FROM partitions").fetchone()
                if partitions != spec.partitions:
                    raise wrong_partitions(spec, partitions)
                connection.execute(
                    "UPDATE topic SET retention_ms = ?, compacted = ?", (spec.retention_ms, spec.compacted)
                )
                for number in range(partitions):
                    # Compaction looks older records up by their key.
                    connection.execute(
                        f"CREATE INDEX IF NOT EXISTS p{number}_key ON p{number} (key)"
                        if spec.compacted
                        else f"DROP INDEX IF EXISTS p{number}_key"
                    )

    def begin(self) -> None:
        """Take the write lock."""
        self._connection.execute("BEGIN IMMEDIATE")

    def insert(self, records: Iterable[NewRecord], now_ms: int) -> list[tuple[TopicPartition, int]]:
        """Append inside the transaction begun, and return where each record stands.

        Offsets are given out under the write lock, so whoever reads an offset has all earlier ones before its eyes.
        """
        ends: dict[int, int] = dict(self._connection.execute("SELECT number, end_offset FROM partitions").fetchall())
        rows: dict[int, list[tuple[int, str, bytes, str | None, int]]] = {}
        places = []
        for new in records:
            number = partition_of(new.key, self.partitions)
            offset = ends[number]
            ends[number] = offset + 1
            timestamp_ms = now_ms if new.timestamp_ms is None else new.timestamp_ms
            rows.setdefault(number, []).append((offset, new.key, new.value, _headers_text(new.headers), timestamp_ms))
            places.append((self.places[number], offset))
        for number, values in rows.items():
            self._connection.executemany(f"INSERT INTO p{number} VALUES (?, ?, ?, ?, ?)", values)  # noqa: S608 - an integer
            self._connection.execute("UPDATE partitions SET end_offset = ? WHERE number = ?", (ends[number], number))
        return places

    def commit(self) -> None:
        """Make what was appended visible, and durable as far as `sync` says."""
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Forget what was appended since `begin`."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def checkpoint_if_due(self) -> None:
        """Keep the write-ahead log short; not inside a transaction."""
        self._checkpointer.checkpoint_if_due()

    def read(self, number: int, offset: int, limit: int) -> list[Record]:
        """Read at most `limit` records from an offset on, fewer when they are very long."""
        statement = f"SELECT * FROM p{number} WHERE record_offset >= ? ORDER BY record_offset LIMIT ?"  # noqa: S608 - an integer
        records = []
        room = _POLL_BYTES
        with closing(self._connection.execute(statement, (offset, limit))) as cursor:
            for place, key, value, headers, timestamp_ms in cursor:
                records.append(Record(self.name, number, place, key, value, _headers_of(headers), timestamp_ms))
                room -= len(value)
                if room < 0:
                    break
        return records

    def version(self) -> int:
        """Give a number that changes when another connection has written."""
        with closing(self._connection.execute("PRAGMA data_version")) as cursor:
            return int(cursor.fetchone()[0])

    def end_offsets(self) -> dict[TopicPartition, int]:
        """Give the offset that each partition's next record gets."""
        rows = self._connection.execute("SELECT number, end_offset FROM partitions").fetchall()
        return {self.places[number]: end for number, end in rows}

    def begin_offsets(self) -> dict[TopicPartition, int]:
        """Give the first offset of each partition, its end when it is empty."""
        return self._first_offsets("TRUE", ())

    def offsets_for_time(self, timestamp_ms: int) -> dict[TopicPartition, int]:
        """Give the first offset of each partition that is not earlier; reads the partition up to there."""
        return self._first_offsets("timestamp_ms >= ?", (timestamp_ms,))

    def maintain(self, now_ms: int) -> bool:
        """Let go of what retention and compaction no longer keep, in one short transaction; True when more is left.

        Several processes may do it at once; one that has nothing to do only reads.
        """
        retention_ms, compacted = self._connection.execute("SELECT retention_ms, compacted FROM topic").fetchone()
        more = False
        for where in self.places:
            if retention_ms is not None:
                more |= self._drop_expired(where.partition, now_ms - retention_ms)
            if compacted:
                more |= self._drop_superseded(where.partition)
        return more

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _drop_expired(self, number: int, oldest_ms: int) -> bool:
        """Drop a part of the longest run of expired records at the partition's beginning."""
        table = f"p{number}"
        expired = self._connection.execute(
            f"SELECT record_offset, timestamp_ms < ? FROM {table} ORDER BY record_offset LIMIT ?",  # noqa: S608 - an integer
            (oldest_ms, _MAINTENANCE_STEP),
        ).fetchall()
        run = list(takewhile(lambda row: row[1], expired))
        if run:
            with write_transaction(self._connection):
                self._connection.execute(f"DELETE FROM {table} WHERE record_offset <= ?", (run[-1][0],))  # noqa: S608 - an integer
        return len(run) == _MAINTENANCE_STEP

    def _drop_superseded(self, number: int) -> bool:
        """Drop the earlier records of the keys that a stretch of records has written anew."""
        table = f"p{number}"
        end, begin = self._connection.execute(
            "SELECT end_offset, compacted_to FROM partitions WHERE number = ?", (number,)
        ).fetchone()
        upto = min(end, begin + _MAINTENANCE_STEP)
        if begin < upto:
            with write_transaction(self._connection):
                self._connection.execute(
                    f"DELETE FROM {table} WHERE record_offset < :upto"  # noqa: S608 - an integer
                    f" AND key IN (SELECT key FROM {table} WHERE record_offset >= :begin AND record_offset < :upto)"
                    f" AND record_offset < (SELECT max(last.record_offset) FROM {table} AS last"
                    f" WHERE last.key = {table}.key AND last.record_offset < :upto)",
                    {"begin": begin, "upto": upto},
                )
                self._connection.execute("UPDATE partitions SET compacted_to = ? WHERE number = ?", (upto, number))
        return bool(upto < end)

    def _first_offsets(self, condition: str, arguments: Sequence[int]) -> dict[TopicPartition, int]:
        offsets = self.end_offsets()
        for where in self.places:
            row = self._connection.execute(
                f"SELECT record_offset FROM p{where.partition} WHERE {condition} ORDER BY record_offset LIMIT 1",  # noqa: S608 - our own words
                arguments,
            ).fetchone()
            if row is not None:
                offsets[where] = row[0]
        return offsets


def _read_spec(connection: sqlite3.Connection, name: str) -> TopicSpec | None:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'topic'").fetchone():
        return None
    retention_ms, compacted = connection.execute("SELECT retention_ms, compacted FROM topic").fetchone()
    (partitions,) = connection.execute("SELECT count(*) FROM partitions").fetchone()
    return TopicSpec(name, partitions, retention_ms, bool(compacted))


def _headers_text(headers: Mapping[str, bytes]) -> str | None:
    return json.dumps({name: value.decode("latin-1") for name, value in headers.items()}) if headers else None


def _headers_of(text: str | None) -> Mapping[str, bytes]:
    return {name: value.encode("latin-1") for name, value in json.loads(text).items()} if text else {}
