"""Reads the model versions that gpu_worker leaves in a folder; only maps them, and never writes there."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from servicekit.errors import FailedPreconditionError, NotFoundError
from servicekit.folders import folder_name
from vector_search.adapters.item_columns import ItemColumnCache, read_items
from vector_search.convert import fields_of
from vector_search.domain.catalogue import VersionItems
from vector_search.domain.items import Fields
from vector_search.domain.model import CONTENT, NO_FACTORS, UNTRAINED, Factors, ModelVersion, Source
from vector_search.domain.tables import NO_TABLE, ItemTable, SourceParameters

MANIFEST = "manifest.json"
_FORMAT = 1
_CHUNK = 1 << 20


class FolderModelStore:
    """A ModelStore in a folder.

    Args:
        root: Holds a folder for each tenant, and that one for each version.
        cache: Where the items' columns are kept on this machine.
    """

    def __init__(self, root: Path, cache: ItemColumnCache) -> None:
        self._root = root
        self._cache = cache

    async def tenants(self) -> Sequence[str]:
        """Give the tenants that have versions."""
        return sorted(unquote(path.name) for path in self._root.iterdir()) if self._root.is_dir() else []

    async def active(self, tenant: str) -> str:
        """Give the version that shall serve."""
        try:
            text = (self._root / folder_name(tenant) / "active.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        return str(json.loads(text)["version"])

    async def load(self, tenant: str, version: str, *, verify: bool) -> ModelVersion:
        """Map a version."""
        return await asyncio.to_thread(self._load, tenant, version, verify)

    async def close(self) -> None:
        """Nothing is open."""

    def fields(self, tenant: str, version: str) -> Iterator[Fields]:
        """Give the fields of a version's items by item number."""
        return (fields_of(message) for message in read_items(self._folder(tenant, version) / "items.bin"))

    def _folder(self, tenant: str, version: str) -> Path:
        folder = self._root / folder_name(tenant) / version
        if not version or version.startswith(".") or "/" in version or not (folder / MANIFEST).is_file():
            raise NotFoundError(f"tenant {tenant} has no model version {version}", field="version")
        return folder

    def _load(self, tenant: str, version: str, verify: bool) -> ModelVersion:
        folder = self._folder(tenant, version)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != _FORMAT:
                raise FailedPreconditionError(f"version {version} has the format {manifest['format']}, we read 1")
            if verify:
                _verify(folder, manifest)
            keys = np.array(_array(folder, "item_keys"), np.int64)
            items = self._cache.load(keys, folder / "items.bin", checksum=manifest["checksums"]["items.bin"])
            model = _read(folder, manifest, items)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FailedPreconditionError(f"version {version} of {tenant} cannot be read: {error!r}") from error
        model.verify()
        return model


def is_whole(manifest: Mapping[str, Any]) -> bool:
    """Tell whether a manifest has the checksum that it says; the first ones said none."""
    content = dict(manifest)
    said = content.pop("manifest_checksum", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return said is None or said == sha256(text.encode()).hexdigest()


def checksum_of(path: Path) -> str:
    """Give a file's checksum as manifests write it."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    if not is_whole(manifest):
        raise FailedPreconditionError(f"the manifest of version {folder.name} is damaged")
    for name, expected in manifest["checksums"].items():
        if checksum_of(folder / name) != expected:
            raise FailedPreconditionError(f"{name} of version {folder.name} does not have its checksum: it is damaged")


def _read(folder: Path, manifest: Mapping[str, Any], items: VersionItems) -> ModelVersion:
    sources = [_source(folder, name, described) for name, described in manifest["sources"].items()]
    if CONTENT not in manifest["sources"]:
        sources.append(Source(CONTENT, NO_TABLE, UNTRAINED))
    has_vectors = (folder / "content_vectors.npy").exists()
    return ModelVersion(
        name=manifest["version"],
        items=items,
        sources=tuple(sources),
        factors=_factors(folder, manifest["factors"]) if manifest.get("factors") else NO_FACTORS,
        columns={name: np.array(_array(folder, name), np.float32) for name in manifest.get("item_columns", ())},
        encoder=manifest.get("encoder", {}).get("model_id", "") if has_vectors else "",
        content_keys=_array(folder, "content_keys") if has_vectors else np.empty(0, np.int64),
        content_vectors=_array(folder, "content_vectors") if has_vectors else np.empty((0, 0), np.float32),
        trained_at_ms=manifest["trained_at_ms"],
        log_position={
            topic: {int(partition): offset for partition, offset in offsets.items()}
            for topic, offsets in manifest["log_position"].items()
        },
        serving_json=json.dumps(manifest["serving"]),
    )


def _array(folder: Path, name: str) -> npt.NDArray[Any]:
    # A plain array over the same memory: numpy's memmap class slows every small operation down.
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))


def _source(folder: Path, name: str, described: Mapping[str, Any]) -> Source:
    table = described.get("table", name)
    return Source(
        name,
        ItemTable(*(_array(folder, f"{table}.{part}") for part in ("indptr", "indices", "weights"))),
        _parameters(described),
        float(described.get("retrieval_weight", 1.0)),
    )


def _factors(folder: Path, described: Mapping[str, Any]) -> Factors:
    return Factors(_array(folder, "fold_in"), _array(folder, "factors"), _parameters(described))


def _parameters(described: Mapping[str, Any]) -> SourceParameters:
    return SourceParameters(
        scale=float(described.get("scale", 1.0)),
        half_life_items=described.get("half_life_items"),
        ties_share_position=bool(described.get("ties_share_position", False)),
        half_life_s=described.get("half_life_s"),
        time_floor=float(described.get("time_floor", 0.0)),
        max_history=described.get("max_history"),
    )
