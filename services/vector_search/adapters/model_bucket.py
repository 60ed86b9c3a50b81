"""Reads the model versions that gpu_worker leaves in an S3 bucket: fetched to this machine, verified, then mapped."""

import asyncio
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from servicekit.bucket import Bucket
from servicekit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from servicekit.folders import bring_to_disk, folder_name
from servicekit.logs import get_logger
from vector_search.adapters.item_columns import ItemColumnCache
from vector_search.adapters.model_folder import MANIFEST, FolderModelStore, checksum_of, is_whole
from vector_search.domain.items import Fields
from vector_search.domain.model import ModelVersion

_PART = 8 << 20
_ATTEMPTS = 3  # at a file that arrives damaged
_PAUSES_S = (0.2, 1.0, 3.0)  # between attempts at a store that does not answer

T = TypeVar("T")


class BucketModelStore:
    """A ModelStore in a bucket, with a copy of the versions in use on this machine.

    A version is fetched into a folder whose name begins with a dot, each file is compared with its checksum, and the
    folder is renamed when it is whole. What is there already after a break or a crash is not fetched again.

    Args:
        bucket: Holds `<tenant>/<version>/…` and `<tenant>/active.json`.
        folder: Where the copies are.
        cache: Where the items' columns are kept on this machine.
        kept: How many versions of a tenant stay here, the last used ones: the active one, the one before, and one
            that is being brought up.
        pauses_s: How long to wait between attempts at a store that does not answer.
    """

    def __init__(
        self,
        bucket: Bucket,
        folder: Path,
        cache: ItemColumnCache,
        *,
        kept: int = 3,
        pauses_s: Sequence[float] = _PAUSES_S,
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._copies = FolderModelStore(folder, cache)
        self._kept = kept
        self._pauses_s = tuple(pauses_s)
        self._closing = threading.Event()
        self._turns: dict[str, threading.Lock] = {}
        self._log = get_logger(__name__)

    async def tenants(self) -> Sequence[str]:
        """Give the tenants that have versions."""
        return [unquote(name) for name in await asyncio.to_thread(self._patiently, self._bucket.folders)]

    async def active(self, tenant: str) -> str:
        """Give the version that shall serve."""
        name = f"{folder_name(tenant)}/active.json"
        try:
            return str(json.loads(await asyncio.to_thread(self._patiently, lambda: self._bucket.read(name)))["version"])
        except NotFoundError:
            return ""
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPreconditionError(f"{name} is damaged: activate a version again") from error

    async def load(self, tenant: str, version: str, *, verify: bool) -> ModelVersion:
        """Map a version, fetched first where it is not here yet."""
        turn = self._turns.setdefault(tenant, threading.Lock())
        await asyncio.to_thread(self._bring_here, turn, tenant, version, verify)
        return await self._copies.load(tenant, version, verify=False)

    def fields(self, tenant: str, version: str) -> Iterator[Fields]:
        """Give the fields of the items of a version that was loaded."""
        return self._copies.fields(tenant, version)

    async def close(self) -> None:
        """Break off what is being fetched; what has arrived stays for the next start."""
        self._closing.set()
        await asyncio.to_thread(self._bucket.close)

    # --- in a thread ---

    def _bring_here(self, turn: threading.Lock, tenant: str, version: str, verify: bool) -> None:
        if not version or version.startswith(".") or "/" in version:
            raise NotFoundError(f"tenant {tenant} has no model version {version}", field="version")
        copy = self._folder / folder_name(tenant) / version
        with turn:  # a call that was given up may still be fetching
            if (copy / MANIFEST).is_file():
                if not verify or _is_intact(copy):
                    os.utime(copy)
                    return
                self._log.warning("the copy of a version is damaged and fetched again", tenant=tenant, version=version)
                shutil.rmtree(copy)
            try:
                self._fetch(tenant, version, copy)
            except OSError as error:
                raise ResourceExhaustedError(f"version {version} is not written to {self._folder}: {error}") from error
            self._remove_others(copy)

    def _fetch(self, tenant: str, version: str, copy: Path) -> None:
        folder = f"{folder_name(tenant)}/{version}"
        text, checksums = self._read_manifest(folder, tenant, version)
        sizes = {each.name: each.size for each in self._patiently(lambda: self._bucket.objects(folder))}
        missing = [name for name in checksums if f"{folder}/{name}" not in sizes]
        if missing:
            raise FailedPreconditionError(f"version {version} of {tenant} lacks {missing[0]}: it is damaged")
        arriving = copy.with_name(f".{version}")
        arriving.mkdir(parents=True, exist_ok=True)
        self._require_space(arriving, sum(sizes[f"{folder}/{name}"] for name in checksums))
        for name, checksum in checksums.items():
            self._fetch_file(f"{folder}/{name}", sizes[f"{folder}/{name}"], arriving / name, checksum)
        (arriving / MANIFEST).write_bytes(text)
        for path in arriving.iterdir():
            bring_to_disk(path)
        arriving.rename(copy)
        bring_to_disk(copy.parent)
        self._log.info("a version was fetched", tenant=tenant, version=version, bytes=sum(sizes.values()))

    def _read_manifest(self, folder: str, tenant: str, version: str) -> tuple[bytes, Mapping[str, str]]:
        for attempt in range(_ATTEMPTS):
            try:
                text = self._patiently(lambda: self._bucket.read(f"{folder}/{MANIFEST}"))
            except NotFoundError:
                raise NotFoundError(f"tenant {tenant} has no model version {version}", field="version") from None
            checksums = _checksums(text)
            if checksums is not None:
                return text, checksums
            self._log.warning("a manifest arrived damaged", tenant=tenant, version=version, attempt=attempt + 1)
        raise FailedPreconditionError(f"the manifest of version {version} of {tenant} is damaged")

    def _fetch_file(self, name: str, size: int, file: Path, checksum: str) -> None:
        for attempt in range(_ATTEMPTS):
            self._fetch_parts(name, size, file)
            if checksum_of(file) == checksum:
                return
            file.unlink()
            self._log.warning("an object arrived damaged", object=name, attempt=attempt + 1)
        raise FailedPreconditionError(f"{name} does not have its checksum: it is damaged in the model store")

    def _fetch_parts(self, name: str, size: int, file: Path) -> None:
        """Append to a file what it lacks."""
        with file.open("ab") as content:
            if content.tell() > size:
                content.truncate(0)
            while (begin := content.tell()) < size:
                end = min(begin + _PART, size)
                content.write(self._patiently(partial(self._bucket.read_part, name, begin, end)))

    def _require_space(self, folder: Path, needed: int) -> None:
        there = sum(path.stat().st_size for path in folder.iterdir())
        free = shutil.disk_usage(folder).free
        if needed - there > free:
            raise ResourceExhaustedError(f"{folder} has {free >> 20} MiB left, the version needs {needed >> 20} MiB")

    def _remove_others(self, copy: Path) -> None:
        """Remove a tenant's versions that were not used lately, and what of others never arrived as a whole."""
        folders = [path for path in copy.parent.iterdir() if path.is_dir()]
        whole = sorted((path for path in folders if path.name[0] != "."), key=_last_used, reverse=True)
        for doomed in (*whole[self._kept :], *(path for path in folders if path.name[0] == ".")):
            shutil.rmtree(doomed, ignore_errors=True)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do it, again after each pause while the store does not answer."""
        for pause_s in self._pauses_s:
            self._require_open()
            try:
                return work()
            except (UnavailableError, DeadlineExceededError) as error:
                self._log.warning("the model store does not answer", error=error.message, again_in_s=pause_s)
                self._closing.wait(pause_s)
        self._require_open()
        return work()

    def _require_open(self) -> None:
        if self._closing.is_set():
            raise UnavailableError("the service is stopping")


def _checksums(text: bytes) -> Mapping[str, str] | None:
    """Give the checksums that a manifest names; None when it is damaged."""
    try:
        manifest: dict[str, Any] = json.loads(text)
        checksums: dict[str, str] = manifest["checksums"]
        names_are_plain = all(name == Path(name).name and name[0] != "." and name != MANIFEST for name in checksums)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return checksums if names_are_plain and is_whole(manifest) else None


def _is_intact(copy: Path) -> bool:
    checksums = _checksums((copy / MANIFEST).read_bytes())
    try:
        return checksums is not None and all(checksum_of(copy / name) == each for name, each in checksums.items())
    except FileNotFoundError:
        return False


def _last_used(copy: Path) -> int:
    return copy.stat().st_mtime_ns
