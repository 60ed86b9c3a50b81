"""The model store in a folder: `<tenant>/<version>/`, `<tenant>/active.json`, `<tenant>/refused.json`."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gpu_worker.adapters.version_files import (
    ACTIVE,
    MANIFEST,
    REFUSED,
    is_version,
    no_version,
    read_manifest,
    write_files,
    write_manifest,
)
from gpu_worker.domain.versions import Active, Manifest
from servicekit.folders import folder_name, name_of_folder


class FolderModelStore:
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
            _sync(path)
        _sync(unfinished)
        unfinished.rename(folder / version)
        _sync(folder)

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

    def active(self, tenant: str) -> Active:
        """See ModelStore."""
        return Active.from_json(self._read_json(tenant, ACTIVE))

    def set_active(self, tenant: str, active: Active) -> None:
        """See ModelStore."""
        self._replace_json(tenant, ACTIVE, active.as_json())

    def refusals(self, tenant: str) -> Mapping[str, str]:
        """See ModelStore."""
        return self._read_json(tenant, REFUSED)

    def set_refusals(self, tenant: str, refusals: Mapping[str, str]) -> None:
        """See ModelStore."""
        if refusals or self.refusals(tenant):
            self._replace_json(tenant, REFUSED, refusals)

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

    def _read_json(self, tenant: str, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self._folder(tenant) / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return content

    def _replace_json(self, tenant: str, name: str, content: Mapping[str, Any]) -> None:
        folder = self._folder(tenant)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{name}"
        fresh.write_text(json.dumps(content), encoding="utf-8")
        _sync(fresh)
        fresh.replace(folder / name)
        _sync(folder)


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
