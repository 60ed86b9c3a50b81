"""Names the state of the catalogue that this gateway has heard of, alike on all gateways that have heard the same."""

import time
from collections.abc import Callable
from hashlib import blake2b

from servicekit.eventlog.port import Offsets

_RENEW_S = 0.25


class CatalogueEpoch:
    """The positions in the log of what changed the catalogue, as a short name.

    An answer that is kept under the name of before a deletion is not found under the name of after it. While items
    change all the time the name is renewed only every quarter of a second, or nothing would ever be found.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._positions: dict[int, int] = {}
        self._name = self._digest()
        self._is_old = False
        self._renewed_at = clock() - _RENEW_S

    def start_at(self, positions: Offsets) -> None:
        """Take over the next offset of each partition, for what was there before this gateway listened."""
        for each, position in positions.items():
            self.heard(each.partition, position - 1)

    def heard(self, partition: int, offset: int) -> None:
        """Take note of a change that has been applied."""
        if offset >= self._positions.get(partition, 0):
            self._positions[partition] = offset + 1
            self._is_old = True

    @property
    def name(self) -> str:
        """Give the name."""
        if self._is_old and self._clock() - self._renewed_at >= _RENEW_S:
            self._name, self._is_old, self._renewed_at = self._digest(), False, self._clock()
        return self._name

    def _digest(self) -> str:
        positions = sorted(each for each in self._positions.items() if each[1])
        return blake2b(repr(positions).encode(), digest_size=8).hexdigest()
