"""A version as files: what its folder is called, what lies in it, and its manifest, which is written last."""

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_worker.domain.versions import Manifest
from servicekit.errors import NotFoundError

MANIFEST = "manifest.json"
ACTIVE = "active.json"
REFUSED = "refused.json"
_ITEMS = "items.bin"
_VERSION = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_CHUNK = 1 << 20


def is_version(name: str) -> bool:
    """Tell whether a name is a version's."""
    return _VERSION.fullmatch(name) is not None


def write_files(folder: Path, arrays: Mapping[str, npt.NDArray[Any]], items: Iterable[bytes]) -> Mapping[str, str]:
    """Write each array as `<name>.npy` and the items as `items.bin`, and give the checksum of each file by name."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
    with (folder / _ITEMS).open("wb") as file:
        for item in items:
            file.write(_varint(len(item)))
            file.write(item)
    return {path.name: _checksum(path) for path in sorted(folder.iterdir())}


def write_manifest(manifest: Manifest, checksums: Mapping[str, str]) -> str:
    """Give the text of a manifest, with the checksums of the files and one of the manifest itself.

    Raises:
        ValueError: It holds something that is no JSON, such as NaN.
    """
    content = {**manifest, "checksums": dict(checksums)}
    return json.dumps({**content, "manifest_checksum": _checksum_of(content)}, indent=1, allow_nan=False)


def read_manifest(text: str | bytes, tenant: str, version: str) -> Manifest:
    """Read a manifest; one that is damaged makes no version.

    Raises:
        NotFoundError: It is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        said = content.pop("manifest_checksum") if "manifest_checksum" in content else None  # the first had none
        is_whole = "checksums" in content and said in {None, _checksum_of(content)}
    except (ValueError, TypeError, AttributeError):
        is_whole = False
    if not is_whole:
        raise NotFoundError(f"the manifest of tenant {tenant}'s model version {version} is damaged", field="version")
    return content


def no_version(tenant: str, version: str) -> NotFoundError:
    """Give the error of a version that does not exist."""
    return NotFoundError(f"tenant {tenant} has no model version {version}", field="version")


def _checksum_of(content: Mapping[str, Any]) -> str:
    """Give the checksum of JSON content, however it is laid out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


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
