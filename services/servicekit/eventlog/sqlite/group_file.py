"""What consumer groups share between processes: members, the leases of partitions, committed offsets."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from servicekit.errors import FailedPreconditionError
from servicekit.eventlog.partitions import share_partitions
from servicekit.eventlog.port import Offsets, TopicPartition
from servicekit.eventlog.sqlite.connection import Checkpointer, connect, write_transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS members (
    group_name TEXT, member TEXT, instance TEXT NOT NULL, topics TEXT NOT NULL, expires_ms INTEGER NOT NULL,
    PRIMARY KEY (group_name, member)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    group_name TEXT, topic TEXT, number INTEGER, instance TEXT NOT NULL, PRIMARY KEY (group_name, topic, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (
    group_name TEXT, topic TEXT, number INTEGER, next_offset INTEGER NOT NULL, PRIMARY KEY (group_name, topic, number)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Member:
    """Who asks: `instance` tells two lives of one member name apart, and is what leases are held by."""

    group: str
    name: str
    instance: str
    topics: tuple[str, ...]


class GroupFile:
    """The groups' file.

    There is no coordinator: every member renews itself, drops members that have expired, computes everybody's share
    by the same rule and takes what is free of its own. A partition that shall move is given up by its owner first.
    An instance holds one connection, which one thread uses at a time.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "groups.sqlite3"
        # A commit that a power loss takes back only means that some records are delivered again.
        self._connection = connect(self.path, sync="normal")
        with write_transaction(self._connection):
            for statement in _SCHEMA.split(";"):
                self._connection.execute(statement)
        self._checkpointer = Checkpointer(self._connection, self.path)

    def renew(
        self, member: Member, *, joining: bool, now_ms: int, session_ms: int, count: Callable[[str], int]
    ) -> "Share":
        """Say that a member lives, and give it what is free of its share.

        Args:
            member: Who.
            joining: A joining member takes over the leases of the last life of its name.
            now_ms: The time.
            session_ms: How long it counts as living without another call.
            count: How many partitions a topic has.

        Raises:
            FailedPreconditionError: A later instance has joined under the member's name.
        """
        with write_transaction(self._connection):
            self._connection.execute(
                "DELETE FROM members WHERE group_name = ? AND expires_ms < ? AND instance != ?",
                (member.group, now_ms, member.instance),
            )
            self._write_member(member, joining=joining, expires_ms=now_ms + session_ms)
            rows = self._connection.execute(
                "SELECT member, instance, topics FROM members WHERE group_name = ?", (member.group,)
            ).fetchall()
            living = {instance for _, instance, _ in rows}
            topics = {name: set(joined.split(" ")) for name, _, joined in rows}
            counts = {topic: count(topic) for topic in set[str]().union(*topics.values())}
            share = share_partitions(topics, counts)[member.name]
            owners = self._owners(member.group)
            free = {where for where in share if owners.get(where) not in living}
            self._connection.executemany(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)",
                [(member.group, where.topic, where.partition, member.instance) for where in free],
            )
            held = free | {where for where, instance in owners.items() if instance == member.instance}
            committed = self.offsets(member.group)
        self._checkpointer.checkpoint_if_due()
        return Share(held, held - share, {where: committed[where] for where in held if where in committed})

    def release(self, member: Member, partitions: AbstractSet[TopicPartition]) -> None:
        """Give partitions up."""
        with write_transaction(self._connection):
            self._connection.executemany(
                "DELETE FROM leases WHERE group_name = ? AND topic = ? AND number = ? AND instance = ?",
                [(member.group, where.topic, where.partition, member.instance) for where in partitions],
            )

    def leave(self, member: Member) -> None:
        """Give everything up."""
        with write_transaction(self._connection):
            for table in ("members", "leases"):
                self._connection.execute(
                    f"DELETE FROM {table} WHERE group_name = ? AND instance = ?",  # noqa: S608 - our own words
                    (member.group, member.instance),
                )

    def commit(self, member: Member, offsets: Offsets) -> set[TopicPartition]:
        """Store the offsets of the partitions that the member owns, and return the others."""
        with write_transaction(self._connection):
            owners = self._owners(member.group)
            owned = {where for where in offsets if owners.get(where) == member.instance}
            self._connection.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
                [(member.group, where.topic, where.partition, offsets[where]) for where in owned],
            )
        self._checkpointer.checkpoint_if_due()
        return set(offsets) - owned

    def offsets(self, group: str) -> dict[TopicPartition, int]:
        """Give what a group has committed."""
        rows = self._connection.execute(
            "SELECT topic, number, next_offset FROM offsets WHERE group_name = ?", (group,)
        ).fetchall()
        return {TopicPartition(topic, number): offset for topic, number, offset in rows}

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write_member(self, member: Member, *, joining: bool, expires_ms: int) -> None:
        row = self._connection.execute(
            "SELECT instance FROM members WHERE group_name = ? AND member = ?", (member.group, member.name)
        ).fetchone()
        if row is not None and row[0] != member.instance:
            if not joining:
                raise FailedPreconditionError(
                    f"another consumer has joined group {member.group} as {member.name};"
                    " give each process a member name of its own"
                )
            self._connection.execute(
                "UPDATE leases SET instance = ? WHERE group_name = ? AND instance = ?",
                (member.instance, member.group, row[0]),
            )
        self._connection.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
            (member.group, member.name, member.instance, " ".join(member.topics), expires_ms),
        )

    def _owners(self, group: str) -> dict[TopicPartition, str]:
        rows = self._connection.execute(
            "SELECT topic, number, instance FROM leases WHERE group_name = ?", (group,)
        ).fetchall()
        return {TopicPartition(topic, number): instance for topic, number, instance in rows}


@dataclass(frozen=True, slots=True)
class Share:
    """What a member owns after renewing.

    Args:
        held: The partitions it holds the lease of.
        surplus: Those of them that it shall give up before it polls again.
        committed: The committed offsets of those it holds, where there are any.
    """

    held: AbstractSet[TopicPartition]
    surplus: AbstractSet[TopicPartition]
    committed: Mapping[TopicPartition, int]
