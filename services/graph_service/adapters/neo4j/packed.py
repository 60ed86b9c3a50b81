"""How neighbours are kept packed beside the relationships: a list of the newest, and the items of a node.

Bolt brings a byte array in one piece, where each integer of a list costs Python two microseconds; and a list beside its
node is read without a walk over relationships.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from graph_service.domain.graph import Keys, NodeKind
from graph_service.domain.relatedness import Indices

NEWEST_USERS: Final = 300
"""Users packed beside an item; a rule that asks for more reads relationships too."""

NEWEST_ITEMS: Final = 200
"""Items packed beside a user."""

MOST_MEMBERS: Final = 5_000
"""Items packed beside a node; one of more is walked when a rule asks for it."""

_KEY: Final = np.dtype("<i8")


class Newest:
    """The newest neighbours of an item or a user, and how many there are in all.

    Those packed are always the newest, though there may be fewer than fit: who is removed is not replaced.
    """

    __slots__ = ("_entries", "_most", "degree")

    def __init__(self, degree: int, times: bytes, keys: Sequence[int], most: int) -> None:
        ages = (-np.frombuffer(times, dtype=_KEY)).tolist()
        self._entries = [(age, -key) for age, key in zip(ages, keys, strict=True)]
        self._most = most
        self.degree = degree

    def add(self, key: int, at_ms: int) -> None:
        """Take in a new neighbour."""
        entry = (-at_ms, -key)
        is_whole = len(self._entries) == self.degree
        self.degree += 1
        place = bisect_left(self._entries, entry)
        if is_whole or place < len(self._entries):
            self._entries.insert(place, entry)
            del self._entries[self._most :]

    def remove(self, key: int, at_ms: int) -> None:
        """Leave out a neighbour that has been added with this time."""
        entry = (-at_ms, -key)
        self.degree -= 1
        place = bisect_left(self._entries, entry)
        if place < len(self._entries) and self._entries[place] == entry:
            del self._entries[place]

    def times(self) -> bytes:
        """Give the packed times."""
        return np.array([-age for age, _ in self._entries], dtype=_KEY).tobytes()

    def keys(self) -> list[int]:
        """Give the neighbours, newest first."""
        return [-key for _, key in self._entries]


@dataclass(frozen=True, slots=True)
class Lists:
    """Packed lists of several owners behind each other.

    Args:
        owners: int64[n], ascending.
        degrees: int64[n], how many neighbours each really has.
        counts: intp[n], how many are listed.
        values: int64[sum of counts].
    """

    owners: Keys
    degrees: Keys
    counts: Indices
    values: Keys

    @classmethod
    def unpack(cls, packed: Sequence[bytes], most: int) -> Self:
        """Read lists of an owner, its degree and its neighbours, of which the first `most` are wanted."""
        joined = np.frombuffer(b"".join(packed), dtype=_KEY)
        lengths = np.fromiter(map(len, packed), dtype=np.intp, count=len(packed)) // 8
        starts = lengths.cumsum() - lengths
        order = joined[starts].argsort()
        starts, counts = starts[order], np.minimum(lengths[order] - 2, most)
        places = np.repeat(starts + 2 - (counts.cumsum() - counts), counts) + np.arange(counts.sum())
        return cls(joined[starts], joined[starts + 1], counts, joined[places])

    def short(self, most: int) -> Keys:
        """Give the owners of which fewer are listed than are there and wanted."""
        return self.owners[self.counts < np.minimum(self.degrees, most)]


def pack_list(owner: int, degree: int, neighbours: Sequence[int]) -> bytes:
    """Write what `Lists` reads."""
    return np.array([owner, degree, *neighbours], dtype=_KEY).tobytes()


def unpack_list(packed: bytes | None) -> list[int]:
    """Give the neighbours of a list; none where there is no list."""
    neighbours: list[int] = np.frombuffer(packed or b"", dtype=_KEY)[2:].tolist()
    return neighbours


def pack_keys(keys: Sequence[int]) -> bytes:
    """Write keys behind each other."""
    return np.array(keys, dtype=_KEY).tobytes()


def unpack_keys(packed: bytes | None) -> Keys:
    """Read keys written behind each other."""
    return np.frombuffer(packed or b"", dtype=_KEY)


class Members:
    """The items of a node, and how many of its kind each of them has."""

    def __init__(self, node: int, degree: int, packed: bytes | None) -> None:
        self._node = node
        keys, siblings = unpack_members(packed or bytes(16))
        self._siblings = dict(zip(keys.tolist(), siblings.tolist(), strict=True))
        self._are_all_known = len(keys) == degree
        self.degree = degree

    def put(self, item: int, siblings: int, *, is_new: bool) -> None:
        """Take in an item, or say anew how many nodes it has."""
        self.degree += is_new
        self._siblings[item] = siblings

    def remove(self, item: int) -> None:
        """Leave an item out."""
        self.degree -= 1
        self._siblings.pop(item, None)

    def packed(self) -> bytes:
        """Write the node's key, its degree and, unless there are too many of them, its items."""
        is_listed = self._are_all_known and self.degree <= MOST_MEMBERS
        listed = self._siblings if is_listed else {}
        head = np.array([self._node, self.degree, *listed], dtype=_KEY).tobytes()
        return head + np.array(list(listed.values()), dtype=np.uint8).tobytes()


def unpack_members(packed: bytes) -> tuple[Keys, Indices]:
    """Give the items of a node, int64[n], and how many nodes of its kind each has, intp[n]."""
    count = (len(packed) - 16) // 9
    keys = np.frombuffer(packed, dtype=_KEY, count=count, offset=16)
    return keys, np.frombuffer(packed, dtype=np.uint8, offset=16 + 8 * count).astype(np.intp)


def pack_nodes(nodes: Mapping[int, NodeKind]) -> bytes:
    """Write an item's nodes: their keys, then their kinds."""
    return pack_keys(list(nodes)) + bytes(nodes.values())


def unpack_nodes(packed: bytes | None) -> list[tuple[int, NodeKind]]:
    """Read an item's nodes."""
    count = len(packed or b"") // 9
    keys = np.frombuffer(packed or b"", dtype=_KEY, count=count).tolist()
    return list(zip(keys, map(NodeKind, (packed or b"")[8 * count :]), strict=True))
