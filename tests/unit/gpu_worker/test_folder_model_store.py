"""Versions lie complete or not at all."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from gpu_worker.adapters.folder_model_store import FolderModelStore
from gpu_worker.domain.versions import Active, find_fault, name_version
from servicekit.errors import NotFoundError, StartupError
from servicekit.folders import folder_of_url

FIRST, SECOND = "20260101T000000-00000001", "20260102T000000-00000002"


@pytest.fixture
def store(tmp_path: Path) -> FolderModelStore:
    return FolderModelStore(tmp_path)


def write(store: FolderModelStore, version: str, tenant: str = "t") -> None:
    store.write(tenant, version, arrays={"a": np.arange(3)}, items=[b"x" * 300, b""], manifest={"version": version})


def test_a_version_is_written_with_checksums(store: FolderModelStore, tmp_path: Path) -> None:
    write(store, FIRST)
    manifest = store.manifest("t", FIRST)
    files = tmp_path / "t" / FIRST
    assert manifest["checksums"] == {
        name: hashlib.sha256((files / name).read_bytes()).hexdigest() for name in ("a.npy", "items.bin")
    }
    assert np.load(files / "a.npy", mmap_mode="r").tolist() == [0, 1, 2]
    assert (files / "items.bin").read_bytes() == b"\xac\x02" + b"x" * 300 + b"\x00"


def test_an_unfinished_version_is_not_seen(store: FolderModelStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.write("t", FIRST, arrays={}, items=[], manifest={"bad": float("nan")})
    assert not store.versions("t")
    with pytest.raises(NotFoundError):
        store.manifest("t", FIRST)
    store.delete_unfinished(before_ms=2**50)
    assert not list((tmp_path / "t").iterdir())


def test_versions_are_listed_newest_first(store: FolderModelStore) -> None:
    write(store, FIRST)
    write(store, SECOND)
    assert store.versions("t") == [SECOND, FIRST]
    assert store.versions("nobody") == []
    store.delete("t", SECOND)
    store.delete("t", SECOND)
    assert store.versions("t") == [FIRST]


def test_active_and_refusals_are_kept(store: FolderModelStore) -> None:
    assert store.active("t") == Active()
    store.set_active("t", Active(SECOND, (FIRST,)))
    assert FolderModelStore(store._root).active("t") == Active(SECOND, (FIRST,))
    store.set_refusals("t", {FIRST: "why"})
    assert store.refusals("t") == {FIRST: "why"}
    store.set_refusals("t", {})
    assert not store.refusals("t")


@pytest.mark.parametrize("tenant", ["t", "..", ".", "a/b", "ключ", "../x", "%2E"])
def test_any_tenant_has_a_folder_of_its_own(store: FolderModelStore, tmp_path: Path, tenant: str) -> None:
    write(store, FIRST, tenant)
    assert [path.parent for path in tmp_path.iterdir()] == [tmp_path]
    assert store.tenants() == [tenant]
    assert store.versions(tenant) == [FIRST]


def test_the_url_names_a_folder(tmp_path: Path) -> None:
    assert folder_of_url((tmp_path / "a b").as_uri(), setting="MODEL_STORE_URL") == tmp_path / "a b"
    for url in ("s3://bucket", "file://relative/x", ""):
        with pytest.raises(StartupError, match="MODEL_STORE_URL"):
            folder_of_url(url, setting="MODEL_STORE_URL")


def test_history_is_what_a_rollback_walks() -> None:
    active = Active()
    for version in ("a", "b", "b", "c", "a", "d", "e"):
        active = active.followed_by(version)
    assert active == Active("e", ("d", "a", "c"))
    assert active.rolled_back() == Active("d", ("a", "c"))


def test_names_sort_by_time() -> None:
    assert name_version(1_700_000_000_123, "deadbeef") == "20231114T221320-deadbeef"


def test_versions_are_compared_only_when_the_hold_outs_are_alike() -> None:
    def version(quality: float, hold_out: str = "time", error: float = 0.0) -> dict[str, object]:
        metrics = {"blend": {"NDCG@10": quality}, "popularity": {"NDCG@10": 0.1}}
        report = {"standard_errors": {"NDCG@10": error}}
        return {"version": "v", "hold_out": hold_out, "metrics": metrics, "report": report}

    assert not find_fault(version(0.1), None)
    assert "popularity" in find_fault(version(0.09), None)
    assert "active version v" in find_fault(version(0.2), version(0.21))
    assert not find_fault(version(0.2), version(0.21, error=0.006))
    assert not find_fault(version(0.2), version(0.9, "random"))
