"""Which partition a key belongs to and which member a partition belongs to."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from zlib import crc32

from servicekit.eventlog.port import TopicPartition


def partition_of(key: str, partitions: int) -> int:
    """Give the partition of a key. Stored logs depend on it: CRC-32 of the key in UTF-8."""
    return crc32(key.encode()) % partitions


def share_partitions(
    members: Mapping[str, AbstractSet[str]], partitions: Mapping[str, int]
) -> dict[str, set[TopicPartition]]:
    """Deal each topic's partitions round to the members that read it.

    Every member that computes this from the same arguments gets the same answer, so no coordinator is needed.

    Args:
        members: The topics that each member reads.
        partitions: How many partitions each topic has.
    """
    shares: dict[str, set[TopicPartition]] = {member: set() for member in members}
    dealt = 0
    for topic in sorted(partitions):
        readers = sorted(member for member, topics in members.items() if topic in topics)
        for partition in range(partitions[topic]) if readers else ():
            shares[readers[dealt % len(readers)]].add(TopicPartition(topic, partition))
            dealt += 1
    return shares
