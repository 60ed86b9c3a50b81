"""The model store in a folder: `<tenant>/<version>/`, `<tenant>/active.json`, `<tenant>/refused.json`."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
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
from servicekit.folders import bring_to_disk, folder_name, name_of_folder, replace_file


class FolderModelStore(VersionRecords):
    """See ModelStore.

    A version is written under a name that begins with a dot and renamed when its files are on the disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

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
        folder = self._folder(tenant)
        unfinished = folder / f".{version}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        text = write_manifest(manifest, write_files(unfinished, arrays, items))
        (unfinished / MANIFEST).write_text(text, encoding="utf-8")
        for path in unfinished.iterdir():
            bring_to_disk(path)
        bring_to_disk(unfinished)
        unfinished.rename(folder / version)
        bring_to_disk(folder)

    def manifest(self, tenant: str, version: str) -> Manifest:
        """See ModelStore."""
        if not is_version(version):
            raise no_version(tenant, version)
        try:
            text = (self._folder(tenant) / version / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise no_version(tenant, version) from None
        return read_manifest(text, tenant, version)

    def versions(self, tenant: str) -> Sequence[str]:
        """See ModelStore."""
        folder = self._folder(tenant)
        found = folder.iterdir() if folder.is_dir() else ()
        whole = (path.name for path in found if is_version(path.name) and (path / MANIFEST).is_file())
        return sorted(whole, reverse=True)

    def tenants(self) -> Sequence[str]:
        """See ModelStore."""
        return sorted(name_of_folder(path.name) for path in self._root.iterdir()) if self._root.is_dir() else []

    def delete(self, tenant: str, version: str) -> None:
        """See ModelStore; a reader that has the files mapped keeps them until it lets go."""
        folder = self._folder(tenant)
        doomed = folder / f".{version}.deleted"
        if is_version(version) and (folder / version).exists():
            (folder / version).rename(doomed)  # at once, so that nobody sees half of it
            shutil.rmtree(doomed)

    def delete_unfinished(self, *, before_ms: int) -> None:
        """See ModelStore."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            for path in folder.glob(".*"):
                if max(each.stat().st_mtime_ns for each in (path, *path.glob("*"))) < before_ms * 1_000_000:
                    shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """See ModelStore."""

    def _folder(self, tenant: str) -> Path:
        return self._root / folder_name(tenant)

    def _read_record(self, tenant: str, name: str) -> str | None:
        try:
            return (self._folder(tenant) / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def _write_record(self, tenant: str, name: str, content: str) -> None:
        replace_file(self._folder(tenant) / name, content)
