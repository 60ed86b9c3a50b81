"""The model store in an S3 bucket: `<tenant>/<version>/…`, `<tenant>/active.json`, `<tenant>/refused.json`."""

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gpu_worker.adapters.version_files import (
    MANIFEST,
    is_version,
    no_version,
    read_manifest,
    write_files,
    write_manifest,
)
from gpu_worker.adapters.version_records import VersionRecords
from gpu_worker.domain.versions import Manifest
from servicekit.bucket import Bucket, Stored
from servicekit.errors import DeadlineExceededError, NotFoundError, UnavailableError
from servicekit.folders import folder_name, name_of_folder
from servicekit.logs import get_logger

# A store that is away for a minute must not cost a training of an hour.
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

_log = get_logger(__name__)


class BucketModelStore(VersionRecords):
    """See ModelStore.

    A bucket renames nothing, so a version is there from the moment when its manifest is, which is uploaded last and
    deleted first.

    Args:
        staging: A folder where a version is written before it is uploaded.
        pauses_s: How long to wait between the attempts to upload a file.
    """

    def __init__(self, bucket: Bucket, *, staging: Path, pauses_s: Sequence[float] = _PAUSES_S) -> None:
        self._bucket = bucket
        self._staging = staging
        self._pauses_s = tuple(pauses_s)

    def write(
        self,
        tenant: str,
        version: str,
        *,
        arrays: Mapping[str, npt.NDArray[Any]],
        items: Iterable[bytes],
        manifest: Manifest,
    ) -> None:
        """See ModelStore."""
        staged = self._staging / version
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        try:
            checksums = write_files(staged, arrays, items)
            (staged / MANIFEST).write_text(write_manifest(manifest, checksums), encoding="utf-8")
            for name in (*checksums, MANIFEST):
                self._upload(f"{folder_name(tenant)}/{version}/{name}", staged / name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def manifest(self, tenant: str, version: str) -> Manifest:
        """See ModelStore."""
        if not is_version(version):
            raise no_version(tenant, version)
        try:
            text = self._bucket.read(f"{folder_name(tenant)}/{version}/{MANIFEST}")
        except NotFoundError:
            raise no_version(tenant, version) from None
        return read_manifest(text, tenant, version)

    def versions(self, tenant: str) -> Sequence[str]:
        """See ModelStore."""
        found = self._objects_by_version(tenant)
        return sorted((version for version, files in found.items() if MANIFEST in files), reverse=True)

    def tenants(self) -> Sequence[str]:
        """See ModelStore."""
        return sorted(name_of_folder(name) for name in self._bucket.folders())

    def delete(self, tenant: str, version: str) -> None:
        """See ModelStore; a reader that is fetching it finds it gone, and one that has fetched it keeps its copy."""
        if is_version(version):
            files = self._objects_by_version(tenant).get(version, {})
            self._bucket.delete([files[MANIFEST].name] if MANIFEST in files else [])
            self._bucket.delete([each.name for each in files.values()])

    def delete_unfinished(self, *, before_ms: int) -> None:
        """See ModelStore."""
        for tenant in self.tenants():
            for files in self._objects_by_version(tenant).values():
                if MANIFEST not in files and max(each.written_ms for each in files.values()) < before_ms:
                    self._bucket.delete([each.name for each in files.values()])
        self._bucket.end_uploads(before_ms=before_ms)

    def close(self) -> None:
        """See ModelStore."""
        self._bucket.close()

    def _objects_by_version(self, tenant: str) -> Mapping[str, Mapping[str, Stored]]:
        found: dict[str, dict[str, Stored]] = defaultdict(dict)
        for each in self._bucket.objects(folder_name(tenant)):
            _, version, *rest = each.name.split("/")
            if is_version(version) and rest:
                found[version]["/".join(rest)] = each
        return found

    def _upload(self, name: str, file: Path) -> None:
        _patiently(lambda: self._bucket.upload(name, file), self._pauses_s)

    def _read_record(self, tenant: str, name: str) -> bytes | None:
        try:
            return self._bucket.read(f"{folder_name(tenant)}/{name}")
        except NotFoundError:
            return None

    def _write_record(self, tenant: str, name: str, content: str) -> None:
        self._bucket.write(f"{folder_name(tenant)}/{name}", content.encode())  # one PUT of one object


def _patiently(work: Callable[[], None], pauses_s: Sequence[float]) -> None:
    """Do it, again after each pause while the store is not there."""
    for pause_s in pauses_s:
        try:
            return work()
        except (UnavailableError, DeadlineExceededError) as error:
            _log.warning("the model store does not answer", error=error.message, again_in_s=pause_s)
            time.sleep(pause_s)
    return work()
