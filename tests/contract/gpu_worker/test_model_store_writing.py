"""Where versions are written: each store keeps the same promises."""

import hashlib
import signal
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from servers.s3_server import S3Server

from gpu_worker.adapters.bucket_model_store import BucketModelStore
from gpu_worker.adapters.folder_model_store import FolderModelStore
from gpu_worker.domain.ports import ModelStore
from gpu_worker.domain.versions import Active
from servicekit.bucket import Bucket
from servicekit.errors import NotFoundError, UnavailableError
from servicekit.folders import folder_of_url

FIRST, SECOND = "20260101T000000-00000001", "20260102T000000-00000002"
LONG_AGO_MS, ANY_TIME_MS = 0, 2**50
PROCESS = Path(__file__).with_name("model_store_process.py")


class Place:
    """A place for a model store: opens it, and reaches around it."""

    url: str
    endpoint: str = ""

    @abstractmethod
    def open(self) -> ModelStore: ...

    @abstractmethod
    def names(self) -> list[str]:
        """Give all files or objects."""

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @abstractmethod
    def overwrite(self, name: str, content: bytes) -> None: ...

    @abstractmethod
    def remove(self, name: str) -> None: ...


class FolderPlace(Place):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = folder.as_uri()

    def open(self) -> ModelStore:
        return FolderModelStore(folder_of_url(self.url, setting="MODEL_STORE_URL"))

    def names(self) -> list[str]:
        return [str(path.relative_to(self._folder)) for path in self._folder.rglob("*") if path.is_file()]

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def overwrite(self, name: str, content: bytes) -> None:
        (self._folder / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink()


class BucketPlace(Place):
    def __init__(self, url: str, endpoint: str, staging: Path) -> None:
        self.url, self.endpoint = url, endpoint
        self.bucket = Bucket(url, setting="MODEL_STORE_URL", endpoint_url=endpoint)
        self._staging = staging

    def open(self) -> ModelStore:
        return BucketModelStore(self.bucket, staging=self._staging, pauses_s=(0.0,))

    def names(self) -> list[str]:
        return [each.name for folder in self.bucket.folders() for each in self.bucket.objects(folder)]

    def read(self, name: str) -> bytes:
        return self.bucket.read(name)

    def overwrite(self, name: str, content: bytes) -> None:
        self.bucket.write(name, content)

    def remove(self, name: str) -> None:
        self.bucket.delete([name])


def write(store: ModelStore, version: str, tenant: str = "t") -> None:
    store.write(tenant, version, arrays={"a": np.arange(3)}, items=[b"x" * 300, b""], manifest={"version": version})


class ModelStoreContract:
    port = "gpu_worker.ModelStore"
    deaths: ClassVar[tuple[tuple[str, int], ...]]
    """Five functions, with the number of the call before which a writer dies."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def store(self, place: Place) -> ModelStore:
        return place.open()

    def test_a_version_is_written_with_checksums(self, store: ModelStore, place: Place) -> None:
        write(store, FIRST)
        manifest = store.manifest("t", FIRST)
        assert manifest["version"] == FIRST
        assert manifest["checksums"] == {
            name: hashlib.sha256(place.read(f"t/{FIRST}/{name}")).hexdigest() for name in ("a.npy", "items.bin")
        }
        assert place.read(f"t/{FIRST}/items.bin") == b"\xac\x02" + b"x" * 300 + b"\x00"
        assert sorted(place.names()) == [f"t/{FIRST}/{name}" for name in ("a.npy", "items.bin", "manifest.json")]

    def test_versions_are_listed_newest_first(self, store: ModelStore) -> None:
        write(store, FIRST)
        write(store, SECOND)
        assert store.versions("t") == [SECOND, FIRST]
        assert store.tenants() == ["t"]

    def test_an_empty_store_has_nothing(self, store: ModelStore) -> None:
        assert list(store.tenants()) == list(store.versions("t")) == []
        assert store.active("t") == Active()
        assert not store.refusals("t")
        for version in (FIRST, "", "..", "active.json", f"../t/{FIRST}"):
            with pytest.raises(NotFoundError, match="no model version"):
                store.manifest("t", version)
        store.delete_unfinished(before_ms=ANY_TIME_MS)

    def test_a_deleted_version_is_gone(self, store: ModelStore, place: Place) -> None:
        write(store, FIRST)
        write(store, SECOND)
        for _ in range(2):
            store.delete("t", SECOND)
            assert store.versions("t") == [FIRST]
        with pytest.raises(NotFoundError):
            store.manifest("t", SECOND)
        assert not [name for name in place.names() if SECOND in name]

    def test_active_and_refusals_are_kept(self, store: ModelStore, place: Place) -> None:
        store.set_active("t", Active(SECOND, (FIRST,)))
        assert place.open().active("t") == Active(SECOND, (FIRST,))
        store.set_refusals("t", {FIRST: "why"})
        assert place.open().refusals("t") == {FIRST: "why"}
        store.set_refusals("t", {})
        assert not place.open().refusals("t")

    def test_of_two_writers_the_last_wins(self, store: ModelStore, place: Place) -> None:
        other = place.open()
        store.set_active("t", Active(FIRST))
        other.set_active("t", Active(SECOND))
        assert store.active("t") == other.active("t") == Active(SECOND)
        store.set_active("t", Active(FIRST, (SECOND,)))
        assert store.active("t") == other.active("t") == Active(FIRST, (SECOND,))

    @pytest.mark.parametrize("tenant", ["..", ".", "a/b", "ключ", "../x", "%2E", "a b+c"])
    def test_any_tenant_has_a_folder_of_its_own(self, store: ModelStore, place: Place, tenant: str) -> None:
        write(store, FIRST, tenant)
        store.set_active(tenant, Active(FIRST))
        assert all(name.count("/") <= 2 for name in place.names())
        assert store.tenants() == [tenant]
        assert store.versions(tenant) == [FIRST]
        assert store.active(tenant) == Active(FIRST)
        assert store.manifest(tenant, FIRST)["version"] == FIRST

    def test_a_version_without_its_manifest_does_not_exist(self, store: ModelStore, place: Place) -> None:
        write(store, FIRST)
        place.remove(f"t/{FIRST}/manifest.json")
        assert not store.versions("t")
        with pytest.raises(NotFoundError):
            store.manifest("t", FIRST)

    def test_a_damaged_manifest_makes_no_version(self, store: ModelStore, place: Place) -> None:
        write(store, FIRST)
        name = f"t/{FIRST}/manifest.json"
        text = place.read(name)
        for damaged in (text[:-20], b"", text.replace(b"a.npy", b"b.npy"), b"[]", b"[[1]]", b"{}x", b"\xff" + text):
            place.overwrite(name, damaged)
            with pytest.raises(NotFoundError, match="damaged"):
                store.manifest("t", FIRST)
        place.overwrite(name, text)
        assert store.manifest("t", FIRST)["version"] == FIRST

    def test_a_manifest_that_is_no_json_is_not_written(self, store: ModelStore) -> None:
        with pytest.raises(ValueError, match="JSON"):
            store.write("t", FIRST, arrays={}, items=[], manifest={"bad": float("nan")})
        assert not store.versions("t")

    @pytest.mark.parametrize("point", range(5))
    def test_a_killed_writer_leaves_nothing_to_see(
        self, store: ModelStore, place: Place, tmp_path: Path, point: int
    ) -> None:
        write(store, FIRST)
        whole = set(place.names())
        function, number = self.deaths[point]
        writer = [sys.executable, str(PROCESS), place.url, place.endpoint, str(tmp_path / "killed"), "t", SECOND]
        done = subprocess.run([*writer, function, str(number)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert store.versions("t") == [FIRST]
        with pytest.raises(NotFoundError):
            store.manifest("t", SECOND)
        left = set(place.names())
        store.delete_unfinished(before_ms=LONG_AGO_MS)  # it may be another writer's that lives
        assert set(place.names()) == left
        store.delete_unfinished(before_ms=ANY_TIME_MS)
        assert set(place.names()) == whole
        write(store, SECOND)
        assert store.versions("t") == [SECOND, FIRST]


class TestFolderModelStore(ModelStoreContract):
    adapter = "folder"
    deaths = (("numpy:save", 1), ("numpy:save", 2), ("os:fsync", 1), ("os:fsync", 5), ("pathlib:Path.rename", 1))

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return FolderPlace(tmp_path / "models")


class TestBucketModelStore(ModelStoreContract):
    adapter = "s3"
    deaths = (
        ("numpy:save", 2),
        ("servicekit.bucket:Bucket.upload", 1),
        ("servicekit.bucket:Bucket.upload", 2),
        ("servicekit.bucket:Bucket.upload", 3),
        ("servicekit.bucket:Bucket.upload", 4),  # the manifest
    )

    @pytest.fixture
    def place(self, bucket_url: str, s3_server: S3Server, tmp_path: Path) -> Iterator[Place]:
        place = BucketPlace(bucket_url, s3_server.address, tmp_path / "staging")
        yield place
        place.bucket.close()

    def test_a_version_of_which_only_the_manifest_is_gone_is_deleted_with_the_unfinished(
        self, store: ModelStore, place: Place
    ) -> None:
        write(store, FIRST)
        place.remove(f"t/{FIRST}/manifest.json")
        assert not store.versions("t")
        store.delete_unfinished(before_ms=ANY_TIME_MS)
        assert not place.names()

    def test_a_store_that_is_away_for_a_moment_costs_no_version(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert isinstance(place, BucketPlace)
        upload, failures = place.bucket.upload, iter([True, True, False, True])

        def fail_at_first(name: str, file: Path) -> None:
            if next(failures, False):
                raise UnavailableError("away")
            upload(name, file)

        monkeypatch.setattr(place.bucket, "upload", fail_at_first)
        store = BucketModelStore(place.bucket, staging=tmp_path / "staging", pauses_s=(0.0, 0.0))
        write(store, FIRST)
        assert store.versions("t") == [FIRST]
        assert not list((tmp_path / "staging").iterdir())

        monkeypatch.setattr(place.bucket, "upload", lambda *_: fail_at_first("", Path()))
        failures = iter([True] * 10)
        with pytest.raises(UnavailableError):
            write(store, SECOND)
        assert store.versions("t") == [FIRST]

    def test_what_was_uploaded_in_parts_and_never_finished_is_thrown_away(
        self, store: ModelStore, place: Place
    ) -> None:
        assert isinstance(place, BucketPlace)
        files, bucket = place.bucket._files, place.bucket._bucket
        for key in ("some/models/t/x", "of/somebody/else"):
            files.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        store.delete_unfinished(before_ms=LONG_AGO_MS)
        assert len(files.list_multipart_uploads(bucket)) == 2
        store.delete_unfinished(before_ms=ANY_TIME_MS)
        assert [each["Key"] for each in files.list_multipart_uploads(bucket)] == ["of/somebody/else"]
