"""Interaction types: a tenant's rows over the built-in ones, remembered for a moment."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from profile_store.adapters.cql.session import CqlSession, Statement
from profile_store.domain.interactions import BUILT_IN_TYPES, InteractionType, weigh_columns
from servicekit.clock import Clock

REMEMBERED_MS = 250
"""How long what another replica has changed may stay unseen."""
_MAX_TENANTS = 10_000
_MASK_63 = (1 << 63) - 1

_TYPES = Statement("SELECT name, weight, centre, counts_as_seen FROM interaction_types WHERE tenant = ?")
_PUT = Statement(
    "INSERT INTO interaction_types (tenant, name, weight, centre, counts_as_seen) VALUES (?, ?, ?, ?, ?)", "write"
)
STATEMENTS = (_TYPES, _PUT)


@lru_cache(maxsize=10_000)
def type_key(name: str) -> int:
    """Give the number that stands for a type's name in rows: 63 bits of a hash; stored data depends on it."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") & _MASK_63


@dataclass(frozen=True)
class TypesOfTenant:
    """A tenant's types, by name and as arrays."""

    kinds: Mapping[str, InteractionType]

    @cached_property
    def names(self) -> Mapping[int, str]:
        """The names by type key."""
        return {type_key(name): name for name in self.kinds}

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.int64], dict[int, InteractionType], npt.NDArray[np.bool_]]:
        kinds = sorted(self.kinds.values(), key=lambda kind: type_key(kind.name))
        return (
            np.array([type_key(kind.name) for kind in kinds], dtype=np.int64),
            dict(enumerate(kinds)),
            np.array([kind.counts_as_seen for kind in kinds], dtype=np.bool_),
        )

    def know(self, type_keys: npt.NDArray[np.int64]) -> bool:
        """Tell whether all of these are known."""
        return bool(np.isin(type_keys, self._sorted[0]).all())

    def weigh(
        self, type_keys: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Give for each interaction a small number of its type, its signed weight, and whether it counts as seen."""
        known, kinds, seen = self._sorted
        numbers = np.searchsorted(known, type_keys).astype(np.int64)
        return numbers, weigh_columns(kinds, numbers, values), seen[numbers]


class CqlTypes:
    """Reads and writes types."""

    def __init__(self, cql: CqlSession, clock: Clock) -> None:
        self._cql = cql
        self._clock = clock
        self._puts = 0
        self._remembered: OrderedDict[str, tuple[int, TypesOfTenant]] = OrderedDict()

    async def of(self, tenant: str) -> TypesOfTenant:
        """Give a tenant's types, at most REMEMBERED_MS old."""
        remembered = self._remembered.get(tenant)
        if remembered is not None and self._clock.now_ms() < remembered[0]:
            return remembered[1]
        return await self.read(tenant)

    async def knowing(self, tenant: str, type_keys: npt.NDArray[np.int64]) -> TypesOfTenant:
        """Give types among which these are: a type is written before any interaction of it."""
        kinds = await self.of(tenant)
        return kinds if kinds.know(type_keys) else await self.read(tenant)

    async def read(self, tenant: str) -> TypesOfTenant:
        """Give a tenant's types as of now."""
        due, puts = self._clock.now_ms() + REMEMBERED_MS, self._puts
        rows = await self._cql.rows(_TYPES, tenant)
        stored = {row[0]: InteractionType(*row) for row in rows}
        found = TypesOfTenant({**BUILT_IN_TYPES, **stored})
        if puts != self._puts:
            return found  # it may be older than what was put meanwhile
        self._remembered[tenant] = (due, found)
        self._remembered.move_to_end(tenant)
        if len(self._remembered) > _MAX_TENANTS:
            self._remembered.popitem(last=False)
        return found

    async def put(self, tenant: str, kinds: Sequence[InteractionType]) -> bool:
        """Write types, all or none; tell whether one of them weighed differently before."""
        before = (await self.read(tenant)).kinds
        rows = [(tenant, kind.name, kind.weight, kind.centre, kind.counts_as_seen) for kind in kinds]
        await self._cql.write_together(_PUT, rows)
        self._puts += 1
        self._remembered.pop(tenant, None)
        return any(
            kind.name in before and (before[kind.name].weight, before[kind.name].centre) != (kind.weight, kind.centre)
            for kind in kinds
        )
