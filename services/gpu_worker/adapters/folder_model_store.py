"""The model store in a folder: `<tenant>/<version>/`, `<tenant>/active.json`, `<tenant>/refused.json`."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from gpu_worker.domain.versions import Active, Manifest
from servicekit.errors import InvalidArgumentError, NotFoundError

_VERSION = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_MANIFEST = "manifest.json"
_ITEMS = "items.bin"
_CHUNK = 1 << 20


def folder_of_url(url: str) -> Path:
    """Give the folder of `file:///ABSOLUTE_FOLDER`.

    Raises:
        InvalidArgumentError: It is another kind of URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        raise InvalidArgumentError(f"model_store_url {url!r} is not file:///ABSOLUTE_FOLDER", field="model_store_url")
    return Path(unquote(parts.path))


class FolderModelStore:
    """See ModelStore. Written by one gpu_worker, read by any number of vector_search replicas.

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
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
        with (unfinished / _ITEMS).open("wb") as file:
            for item in items:
                file.write(_varint(len(item)))
                file.write(item)
        checksums = {path.name: _checksum(path) for path in sorted(unfinished.iterdir())}
        text = json.dumps({**manifest, "checksums": checksums}, indent=1, allow_nan=False)
        (unfinished / _MANIFEST).write_text(text, encoding="utf-8")
        for path in unfinished.iterdir():
            _sync(path)
        _sync(unfinished)
        unfinished.rename(folder / version)
        _sync(folder)

    def manifest(self, tenant: str, version: str) -> Manifest:
        """See ModelStore."""
        missing = NotFoundError(f"tenant {tenant} has no model version {version}", field="version")
        if not _VERSION.fullmatch(version):
            raise missing
        try:
            text = (self._folder(tenant) / version / _MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise missing from None
        manifest: Manifest = json.loads(text)
        return manifest

    def versions(self, tenant: str) -> Sequence[str]:
        """See ModelStore."""
        folder = self._folder(tenant)
        names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
        return sorted((name for name in names if _VERSION.fullmatch(name)), reverse=True)

    def tenants(self) -> Sequence[str]:
        """See ModelStore."""
        return sorted(unquote(path.name) for path in self._root.iterdir()) if self._root.is_dir() else []

    def active(self, tenant: str) -> Active:
        """See ModelStore."""
        found = self._read_json(tenant, "active.json")
        return Active(found.get("version", ""), tuple(found.get("history", ())))

    def set_active(self, tenant: str, active: Active) -> None:
        """See ModelStore."""
        previous = active.history[0] if active.history else ""
        content = {"version": active.version, "previous": previous, "history": list(active.history)}
        self._replace_json(tenant, "active.json", content)

    def refusals(self, tenant: str) -> Mapping[str, str]:
        """See ModelStore."""
        return self._read_json(tenant, "refused.json")

    def set_refusals(self, tenant: str, refusals: Mapping[str, str]) -> None:
        """See ModelStore."""
        if refusals or self.refusals(tenant):
            self._replace_json(tenant, "refused.json", refusals)

    def delete(self, tenant: str, version: str) -> None:
        """See ModelStore; a reader that has the files mapped keeps them until it lets go."""
        folder = self._folder(tenant)
        doomed = folder / f".{version}.deleted"
        if _VERSION.fullmatch(version) and (folder / version).exists():
            (folder / version).rename(doomed)  # at once, so that nobody sees half of it
            shutil.rmtree(doomed)

    def delete_unfinished(self) -> None:
        """Remove what a killed process left; while nothing is being written."""
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            for path in folder.glob(".*"):
                shutil.rmtree(path, ignore_errors=True)

    def _folder(self, tenant: str) -> Path:
        name = quote(tenant, safe="").replace(".", "%2E") if tenant.strip(".") == "" else quote(tenant, safe="")
        return self._root / name

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


def _varint(number: int) -> bytes:
    """Write a length as protobuf's delimited streams do."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _checksum(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
