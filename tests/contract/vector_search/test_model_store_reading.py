"""Where versions are read, as gpu_worker writes them: each store keeps the same promises."""

import json
import shutil
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem
from servers.s3_server import S3Server

from gpu_worker.adapters.bucket_model_store import BucketModelStore as WritingBucket
from gpu_worker.adapters.folder_model_store import FolderModelStore as WritingFolder
from gpu_worker.domain.ports import ModelStore as WritingStore
from gpu_worker.domain.versions import Active
from servicekit.bucket import Bucket
from servicekit.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from vector_search.adapters import model_bucket
from vector_search.adapters.item_columns import ItemColumnCache, read_items
from vector_search.adapters.model_bucket import BucketModelStore
from vector_search.adapters.model_folder import FolderModelStore
from vector_search.domain.model import ModelVersion
from vector_search.domain.ports import ModelStore
from vector_search.testing import COUNT, TENANT, V1, V2, V3, VersionDraft, draft

V4 = "20240104T000000-00000004"
MANIFEST = f"{V1}/manifest.json"


def publish(writing: WritingStore, version: VersionDraft, folder: Path) -> None:
    """Have gpu_worker write a version."""
    made = version.write(folder)
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["checksums"]
    writing.write(
        version.tenant,
        version.name,
        arrays={path.stem: np.load(path) for path in made.glob("*.npy")},
        items=[item.SerializeToString() for item in read_items(made / "items.bin")],
        manifest=manifest,
    )


class Place:
    """A place for a model store: gpu_worker's way in, ours, and a way around both."""

    writing: WritingStore

    @abstractmethod
    def open(self) -> ModelStore: ...

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read a file below the tenant's folder."""

    @abstractmethod
    def overwrite(self, name: str, content: bytes) -> None: ...

    @abstractmethod
    def remove(self, name: str) -> None: ...


class FolderPlace(Place):
    def __init__(self, folder: Path) -> None:
        self._models, self._columns = folder / "models", folder / "columns"
        self.writing = WritingFolder(self._models)

    def open(self) -> ModelStore:
        return FolderModelStore(self._models, ItemColumnCache(self._columns))

    def read(self, name: str) -> bytes:
        return (self._models / TENANT / name).read_bytes()

    def overwrite(self, name: str, content: bytes) -> None:
        (self._models / TENANT / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self._models / TENANT / name).unlink()


class CountingBucket(Bucket):
    """A bucket that counts the parts fetched, and breaks off after some of them."""

    fetched = 0
    breaks_after = 1 << 62

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        if self.fetched >= self.breaks_after:
            raise UnavailableError("the connection broke")
        self.fetched += 1
        return super().read_part(name, begin, end)


class BucketPlace(Place):
    def __init__(self, url: str, endpoint: str, folder: Path) -> None:
        self.bucket = CountingBucket(url, setting="MODEL_STORE_URL", endpoint_url=endpoint)
        self.writing = WritingBucket(self.bucket, staging=folder / "staging")
        self.copies, self._columns = folder / "versions", folder / "columns"

    def open(self) -> BucketModelStore:
        return BucketModelStore(self.bucket, self.copies, ItemColumnCache(self._columns), pauses_s=(0.0,))

    def read(self, name: str) -> bytes:
        return self.bucket.read(f"{TENANT}/{name}")

    def overwrite(self, name: str, content: bytes) -> None:
        self.bucket.write(f"{TENANT}/{name}", content)

    def remove(self, name: str) -> None:
        self.bucket.delete([f"{TENANT}/{name}"])


class ModelStoreContract:
    port = "vector_search.ModelStore"

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    async def store(self, place: Place) -> AsyncIterator[ModelStore]:
        store = place.open()
        yield store
        await store.close()

    async def test_an_empty_store_has_nothing(self, store: ModelStore) -> None:
        assert list(await store.tenants()) == []
        assert await store.active(TENANT) == ""
        with pytest.raises(NotFoundError, match="no model version"):
            await store.load(TENANT, V1, verify=True)

    async def test_a_version_is_read_as_it_was_written(self, store: ModelStore, place: Place, tmp_path: Path) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        assert list(await store.tenants()) == [TENANT]
        version = await store.load(TENANT, V1, verify=True)
        assert version.name == V1
        assert len(version.items.keys) == COUNT
        assert (np.diff(version.items.keys) > 0).all()
        assert {source.name for source in version.sources} == {"cooccurrence", "transition", "content"}
        assert version.content_vectors.shape == (COUNT, 16)
        years = [fields["year"] for fields in store.fields(TENANT, V1)]
        assert sorted(years) == [1990.0 + number for number in range(COUNT)]

    async def test_what_is_active_is_seen_at_once(self, store: ModelStore, place: Place) -> None:
        for version in (V1, V2, V1):
            place.writing.set_active(TENANT, Active(version))
            assert await store.active(TENANT) == version

    @pytest.mark.parametrize("name", ["", ".", "..", f".{V1}", f"x/../{V1}", f"{V1}/", "active.json"])
    async def test_a_name_that_is_no_version_is_not_found(
        self, store: ModelStore, place: Place, tmp_path: Path, name: str
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        with pytest.raises(NotFoundError):
            await store.load(TENANT, name, verify=True)

    async def test_a_version_without_its_manifest_does_not_exist(
        self, store: ModelStore, place: Place, tmp_path: Path
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        place.remove(MANIFEST)
        with pytest.raises(NotFoundError):
            await store.load(TENANT, V1, verify=True)

    @pytest.mark.parametrize(
        "name", ["items.bin", "item_keys.npy", "cooccurrence.weights.npy", "content_vectors.npy", "manifest.json"]
    )
    async def test_a_damaged_file_is_refused_until_it_is_whole_again(
        self, store: ModelStore, place: Place, tmp_path: Path, name: str
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        whole = place.read(f"{V1}/{name}")
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (flipped, whole[:middle], whole + b"x", b""):
            place.overwrite(f"{V1}/{name}", damaged)
            with pytest.raises(FailedPreconditionError, match=r"damaged|cannot be read"):
                await store.load(TENANT, V1, verify=True)
        place.overwrite(f"{V1}/{name}", whole)
        assert (await store.load(TENANT, V1, verify=True)).name == V1

    async def test_a_file_that_is_missing_makes_a_damaged_version(
        self, store: ModelStore, place: Place, tmp_path: Path
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        place.remove(f"{V1}/factors.npy")
        with pytest.raises(FailedPreconditionError):
            await store.load(TENANT, V1, verify=True)


class TestFolderModelStore(ModelStoreContract):
    adapter = "folder"

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return FolderPlace(tmp_path)


class TestBucketModelStore(ModelStoreContract):
    adapter = "s3"

    @pytest.fixture
    def place(self, bucket_url: str, s3_server: S3Server, tmp_path: Path) -> Iterator[BucketPlace]:
        place = BucketPlace(bucket_url, s3_server.address, tmp_path)
        yield place
        place.bucket.close()

    async def test_a_version_is_fetched_once_and_only_the_last_few_stay(
        self, store: ModelStore, place: BucketPlace, tmp_path: Path
    ) -> None:
        for name in (V1, V2, V3, V4):
            publish(place.writing, draft(name), tmp_path / "draft")
        for name in (V1, V2, V3, V1):
            await store.load(TENANT, name, verify=False)
        fetched = place.bucket.fetched
        await store.load(TENANT, V1, verify=True)
        assert place.bucket.fetched == fetched
        assert copies(place) == [V1, V2, V3]
        await store.load(TENANT, V4, verify=True)
        assert copies(place) == [V1, V3, V4]  # V2 was used longest ago

    async def test_a_broken_fetch_goes_on_where_it_stopped(
        self, store: ModelStore, place: BucketPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_bucket, "_PART", 512)
        publish(place.writing, draft(V1), tmp_path / "draft")
        files = [each for each in place.bucket.objects(f"{TENANT}/{V1}") if not each.name.endswith("manifest.json")]
        parts = sum(-(-each.size // 512) for each in files)
        place.bucket.breaks_after = 7
        with pytest.raises(UnavailableError):
            await store.load(TENANT, V1, verify=True)
        assert copies(place) == [f".{V1}"]
        place.bucket.breaks_after = parts
        assert (await place.open().load(TENANT, V1, verify=True)).name == V1
        assert place.bucket.fetched == parts
        assert copies(place) == [V1]

    async def test_what_arrived_damaged_before_a_break_is_fetched_again(
        self, store: ModelStore, place: BucketPlace, tmp_path: Path
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        arriving = place.copies / TENANT / f".{V1}"
        arriving.mkdir(parents=True)
        (arriving / "items.bin").write_bytes(b"\0" * 100)
        (arriving / "item_keys.npy").write_bytes(b"\0" * 100_000)
        assert (await store.load(TENANT, V1, verify=True)).name == V1

    async def test_a_damaged_copy_is_fetched_again(self, store: ModelStore, place: BucketPlace, tmp_path: Path) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        await store.load(TENANT, V1, verify=True)
        copied = place.copies / TENANT / V1 / "cooccurrence.weights.npy"
        content = bytearray(copied.read_bytes())
        content[-1] ^= 1
        copied.unlink()  # the version is mapped: its pages must not change
        copied.write_bytes(content)
        await store.load(TENANT, V1, verify=True)
        assert copied.read_bytes() == place.read(f"{V1}/cooccurrence.weights.npy")

    async def test_a_copy_serves_a_version_that_was_deleted(
        self, store: ModelStore, place: BucketPlace, tmp_path: Path
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        await store.load(TENANT, V1, verify=True)
        place.writing.delete(TENANT, V1)
        assert isinstance(await place.open().load(TENANT, V1, verify=False), ModelVersion)

    async def test_a_full_disk_is_told(
        self, store: ModelStore, place: BucketPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
        with pytest.raises(ResourceExhaustedError, match="MiB"):
            await store.load(TENANT, V1, verify=True)
        monkeypatch.undo()
        assert (await store.load(TENANT, V1, verify=True)).name == V1

    async def test_a_manifest_cannot_name_files_outside_its_folder(
        self, store: ModelStore, place: BucketPlace, tmp_path: Path
    ) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        manifest = json.loads(place.read(MANIFEST))
        del manifest["manifest_checksum"]
        for name in ("../../outside", "/outside", ".", "a/b", ".hidden"):
            manifest["checksums"] = {name: "0"}
            place.overwrite(MANIFEST, json.dumps(manifest).encode())
            with pytest.raises(FailedPreconditionError, match="damaged"):
                await store.load(TENANT, V1, verify=True)

    async def test_a_store_that_is_closed_fetches_nothing_more(self, place: BucketPlace, tmp_path: Path) -> None:
        publish(place.writing, draft(V1), tmp_path / "draft")
        store = place.open()
        await store.close()
        with pytest.raises(UnavailableError, match="stopping"):
            await store.load(TENANT, V1, verify=True)
        assert place.bucket.fetched == 0


def copies(place: BucketPlace) -> list[str]:
    return sorted(path.name for path in (place.copies / TENANT).iterdir())


async def test_a_flipped_active_is_told(
    s3_files: S3FileSystem, s3_server: S3Server, bucket_url: str, tmp_path: Path
) -> None:
    s3_files.pipe_file(f"{bucket_url}/{TENANT}/active.json", b'{"version"')
    place = BucketPlace(bucket_url, s3_server.address, tmp_path)
    store = place.open()
    with pytest.raises(FailedPreconditionError, match="activate a version again"):
        await store.active(TENANT)
    await store.close()
