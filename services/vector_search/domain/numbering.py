"""Gives item keys dense numbers, by which arrays are indexed; the numbers never leave this service."""

from typing import Any

import numpy as np

from servicekit.arrays import Ints, Keys
from servicekit.compiled import compiled

EMPTY_KEY = -1  # item keys are never negative
_GOLDEN = 0x9E3779B97F4A7C15  # Fibonacci hashing: spreads even keys that somebody chose to collide
_LEAST_CAPACITY = 1_024


class Numbering:
    """A hash table from item key to number, where a key keeps its number for ever.

    One thread adds; others may look up at the same time. Numbers count from 0 without gaps and stay below `capacity`;
    whoever keeps arrays by number makes them that long, and longer when it has grown.
    """

    def __init__(self, keys: Keys) -> None:
        """Number distinct keys in their order."""
        self.count = 0
        self.capacity = max(_LEAST_CAPACITY, len(keys) + len(keys) // 8)
        self.keys = np.full(self.capacity, EMPTY_KEY, np.int64)
        self._slots = _slots_for(self.capacity)
        self._enter(np.array(keys, np.int64))

    def find(self, keys: Keys) -> Ints:
        """Give the numbers of many keys, -1 for those that have none; int32 of the same length."""
        slots, numbers, shift = self._slots
        found = np.empty(len(keys), np.int32)
        _find(slots, numbers, shift, np.array(keys, np.int64), found)  # a copy: keys may be read-only
        return found

    def find_one(self, key: int) -> int:
        """Give the number of a key, -1 when it has none."""
        return int(self.find(np.array([key], np.int64))[0])

    def number(self, key: int) -> int:
        """Give the number of a key, a new one when it has none."""
        number = self.find_one(key)
        if number >= 0:
            return number
        self._enter(np.array([key], np.int64))
        return self.count - 1

    def _enter(self, keys: Keys) -> None:
        if self.count + len(keys) > self.capacity:
            self.capacity = 2 * (self.count + len(keys))
            grown = np.full(self.capacity, EMPTY_KEY, np.int64)
            grown[: self.count] = self.keys[: self.count]
            self.keys = grown
            slots = _slots_for(self.capacity)
            _insert(*slots, grown[: self.count], 0)
            self._slots = slots
        self.keys[self.count : self.count + len(keys)] = keys
        _insert(*self._slots, keys, self.count)
        self.count += len(keys)


def _slots_for(capacity: int) -> tuple[Keys, Ints, int]:
    """Give an empty table that the capacity fills to at most one half."""
    bits = (2 * capacity - 1).bit_length()
    return np.full(1 << bits, EMPTY_KEY, np.int64), np.zeros(1 << bits, np.int32), 64 - bits


@compiled
def _insert(slots: Any, numbers: Any, shift: Any, keys: Any, first_number: Any) -> None:
    """Enter keys that are not in the hash table yet; their numbers count up from first_number."""
    mask = len(slots) - 1
    for i in range(len(keys)):
        slot = np.int64((np.uint64(keys[i]) * np.uint64(_GOLDEN)) >> np.uint64(shift))
        while slots[slot] != EMPTY_KEY:
            slot = (slot + 1) & mask
        numbers[slot] = first_number + i  # before the key, so that a reader in another thread sees both or none
        slots[slot] = keys[i]


@compiled
def _find(slots: Any, numbers: Any, shift: Any, keys: Any, found: Any) -> None:
    """Write the number of each key, -1 where it has none."""
    mask = len(slots) - 1
    for i in range(len(keys)):
        found[i] = -1
        if keys[i] >= 0:
            slot = np.int64((np.uint64(keys[i]) * np.uint64(_GOLDEN)) >> np.uint64(shift))
            while slots[slot] != EMPTY_KEY:
                if slots[slot] == keys[i]:
                    found[i] = numbers[slot]
                    break
                slot = (slot + 1) & mask
