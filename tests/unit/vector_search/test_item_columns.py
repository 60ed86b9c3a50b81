"""The columns of a version are the same from its items and from the file that keeps them."""

from pathlib import Path

import numpy as np
import pytest

from servicekit.errors import FailedPreconditionError
from servicekit.filters import Operator, Predicate
from vector_search.adapters.item_columns import ItemColumnCache, version_items
from vector_search.domain.catalogue import VersionItems
from vector_search.domain.columns import passing
from vector_search.testing import COUNT, draft

QUESTIONS = [
    Predicate("genres", Operator.EQ, ("war",)),
    Predicate("year", Operator.GTE, (2_010.0,)),
    Predicate("kids", Operator.EQ, (True,)),
    Predicate("item_type", Operator.EXISTS, (True,)),
    Predicate("absent", Operator.NOT_IN, ("x",)),
]


def answers(items: VersionItems) -> list[list[int]]:
    return [passing(items.columns, question).tolist() for question in QUESTIONS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draft().write(tmp_path / "models")


def test_columns_come_from_the_file_the_second_time(tmp_path: Path, folder: Path) -> None:
    keys = np.load(folder / "item_keys.npy")
    cache = ItemColumnCache(tmp_path / "columns")
    first = cache.load(keys, folder / "items.bin", checksum="one")
    assert len(answers(first)[0]) == COUNT
    (folder / "items.bin").unlink()
    second = cache.load(keys, folder / "items.bin", checksum="one")
    assert answers(second) == answers(first)
    for name in ("updated_at_ms", "hidden", "available_from_ms", "available_until_ms"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))


def test_a_damaged_file_is_made_anew(tmp_path: Path, folder: Path) -> None:
    keys = np.load(folder / "item_keys.npy")
    cache = ItemColumnCache(tmp_path / "columns")
    first = cache.load(keys, folder / "items.bin", checksum="one")
    (tmp_path / "columns" / "one.npz").write_bytes(b"PK nonsense")
    assert answers(cache.load(keys, folder / "items.bin", checksum="one")) == answers(first)


def test_only_the_last_few_are_kept(tmp_path: Path, folder: Path) -> None:
    keys = np.load(folder / "item_keys.npy")
    cache = ItemColumnCache(tmp_path / "columns")
    for checksum in "abcde":
        cache.load(keys, folder / "items.bin", checksum=checksum)
    assert len(list((tmp_path / "columns").iterdir())) == 3


def test_items_that_are_not_those_of_the_keys_are_refused(folder: Path) -> None:
    keys = np.load(folder / "item_keys.npy")
    for wrong in (keys[1:], keys[:-1], np.concatenate([keys, [2**62]])):
        with pytest.raises(FailedPreconditionError):
            version_items(wrong, folder / "items.bin")
