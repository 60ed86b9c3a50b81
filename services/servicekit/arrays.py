"""Packed little-endian arrays: how keys and scores travel in protos."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from servicekit.errors import InvalidArgumentError

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

_Scalar = TypeVar("_Scalar", bound=np.generic)
_KEY: np.dtype[np.int64] = np.dtype("<i8")
_FLOAT: np.dtype[np.float32] = np.dtype("<f4")
_INT: np.dtype[np.int32] = np.dtype("<i4")


def unpack_keys(packed: bytes, *, field: str) -> Keys:
    """Read int64 without copying; the array is read-only.

    Raises:
        InvalidArgumentError: The length is not a multiple of eight bytes.
    """
    return _unpack(packed, _KEY, field)


def unpack_floats(packed: bytes, *, field: str) -> Floats:
    """Read float32 without copying; the array is read-only.

    Raises:
        InvalidArgumentError: The length is not a multiple of four bytes, or a value is not finite.
    """
    values = _unpack(packed, _FLOAT, field)
    if not np.isfinite(values).all():
        raise InvalidArgumentError(f"{field} holds a value that is not finite", field=field)
    return values


def unpack_ints(packed: bytes, *, field: str) -> Ints:
    """Read int32 without copying; the array is read-only.

    Raises:
        InvalidArgumentError: The length is not a multiple of four bytes.
    """
    return _unpack(packed, _INT, field)


def pack_keys(keys: npt.ArrayLike) -> bytes:
    """Write integers as int64."""
    return np.asarray(keys, dtype=_KEY).tobytes()


def pack_floats(values: npt.ArrayLike) -> bytes:
    """Write numbers as float32, a matrix row by row."""
    return np.asarray(values, dtype=_FLOAT).tobytes()


def pack_ints(values: npt.ArrayLike) -> bytes:
    """Write integers as int32."""
    return np.asarray(values, dtype=_INT).tobytes()


def _unpack(packed: bytes, dtype: np.dtype[_Scalar], field: str) -> npt.NDArray[_Scalar]:
    if len(packed) % dtype.itemsize:
        raise InvalidArgumentError(
            f"{field} has {len(packed)} bytes, which is no multiple of {dtype.itemsize}", field=field
        )
    return np.frombuffer(packed, dtype=dtype)
