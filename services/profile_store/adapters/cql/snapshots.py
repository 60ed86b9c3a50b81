"""Snapshots of settled sums: what a replica starts from, so that it need not read the whole feed.

A snapshot is written beside the one before, then a single row points to it. Replicas write them as they see fit; the
later one stays.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profile_store.adapters.cql.session import CqlSession, Row, Statement
from profile_store.domain.popularity import WINDOWS, DecayedSums
from servicekit.arrays import Keys

_ROW_ITEMS = 1_024
_LAST_S = 30 * 24 * 3600

_HEAD = Statement("SELECT head FROM snapshot_heads WHERE tenant = ?")
_PUT_HEAD = Statement("INSERT INTO snapshot_heads (tenant, head) VALUES (?, ?) USING TIMESTAMP ?", "write")
_CHUNKS = Statement(
    "SELECT chunk, item_keys, reference_ms, sums FROM snapshots WHERE tenant = ? AND snapshot = ?", "scan"
)
_PUT_CHUNK = Statement(
    "INSERT INTO snapshots (tenant, snapshot, chunk, item_keys, reference_ms, sums) VALUES (?, ?, ?, ?, ?, ?) "
    "USING TTL ?",
    "write",
)
_DROP = Statement("DELETE FROM snapshots WHERE tenant = ? AND snapshot = ?", "write")
STATEMENTS = (_HEAD, _PUT_HEAD, _CHUNKS, _PUT_CHUNK, _DROP)


@dataclass(frozen=True, slots=True)
class Head:
    """Which snapshot: through which slot, after which request to count anew, where it is and in how many rows."""

    slot: int
    recounted: int
    snapshot: uuid.UUID
    rows: int

    @property
    def timestamp(self) -> int:
        """What makes the later of two the one that stays: by the request it follows, then by its slot."""
        return (self.recounted >> 10) + self.slot

    @classmethod
    def read(cls, text: str) -> "Head":
        """Read what `text` gave."""
        slot, recounted, snapshot, rows = json.loads(text)
        return cls(slot, recounted, uuid.UUID(snapshot), rows)

    def text(self) -> str:
        """Write it."""
        return json.dumps([self.slot, self.recounted, str(self.snapshot), self.rows])


async def load(cql: CqlSession, tenant: str) -> tuple[Head, Keys, DecayedSums] | None:
    """Read the latest snapshot, None when there is none or it is gone."""
    found = await cql.rows(_HEAD, tenant)
    if not found:
        return None
    head = Head.read(found[0][0])
    rows = [row async for page in cql.pages(_CHUNKS, tenant, head.snapshot, page_rows=100) for row in page]
    return (head, *_unpack(rows)) if len(rows) == head.rows else None


async def save(
    cql: CqlSession, tenant: str, *, slot: int, recounted: int, keys: Keys, sums: DecayedSums, before: Head | None
) -> Head:
    """Write a snapshot, point to it, and drop the one that this replica knew before."""
    starts = range(0, len(keys), _ROW_ITEMS)
    head = Head(slot, recounted, uuid.uuid4(), len(starts))
    for number, start in enumerate(starts):
        part = slice(start, start + _ROW_ITEMS)
        blobs = (keys[part].tobytes(), sums.reference_ms[part].tobytes(), sums.sums[part].tobytes())
        await cql.write(_PUT_CHUNK, tenant, head.snapshot, number, *blobs, _LAST_S)
    await cql.write(_PUT_HEAD, tenant, head.text(), head.timestamp)
    if before is not None:
        await cql.write(_DROP, tenant, before.snapshot)
    return head


def _unpack(rows: Sequence[Row]) -> tuple[Keys, DecayedSums]:
    keys, times, sums = (
        b"".join(parts) for parts in ([row[1] for row in rows], [row[2] for row in rows], [row[3] for row in rows])
    )
    return (
        np.frombuffer(keys, dtype=np.int64).copy(),
        DecayedSums(
            np.frombuffer(times, dtype=np.int64).copy(),
            np.frombuffer(sums, dtype=np.float64).reshape(-1, WINDOWS).copy(),
        ),
    )
