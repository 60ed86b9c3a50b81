"""Reads result rows of numbers as numpy columns, without a Python object for each cell.

The driver has a handler for that too, which needs numpy 1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from cassandra.cqltypes import DoubleType, Int32Type, LongType
from cassandra.protocol import ProtocolHandler, ResultMessage, read_int

Columns = Mapping[str, npt.NDArray[Any]]

_DTYPES = {LongType: ">i8", DoubleType: ">f8", Int32Type: ">i4"}


class _ColumnsResult(ResultMessage):  # type: ignore[misc]  # the driver ships no types
    """A result whose columns all have a fixed width and no nulls: each cell is its length and its bytes."""

    def recv_results_rows(
        self, f: Any, protocol_version: int, user_type_map: Any, result_metadata: Any, column_encryption_policy: Any
    ) -> None:
        """Read the rows of a result; called by the driver."""
        del protocol_version, column_encryption_policy
        self.recv_results_metadata(f, user_type_map)
        metadata = self.column_metadata or result_metadata
        count = read_int(f)
        self.column_names = [column[2] for column in metadata]
        self.column_types = [column[3] for column in metadata]
        layout = np.dtype(
            [
                part
                for name, kind in zip(self.column_names, self.column_types, strict=True)
                for part in ((f"length of {name}", ">i4"), (name, _DTYPES[kind]))
            ]
        )
        cells = np.frombuffer(f.read(count * layout.itemsize), dtype=layout, count=count)
        for name in self.column_names:
            if (cells[f"length of {name}"] != layout[name].itemsize).any():
                raise ValueError(f"column {name} has nulls: it cannot be read as an array")
        self.parsed_rows = {name: cells[name].astype(layout[name].newbyteorder("=")) for name in self.column_names}


class ColumnsHandler(ProtocolHandler):  # type: ignore[misc]  # the driver ships no types
    """Decodes rows as columns, everything else as the driver does."""

    message_types_by_opcode = {**ProtocolHandler.message_types_by_opcode, ResultMessage.opcode: _ColumnsResult}  # noqa: RUF012
