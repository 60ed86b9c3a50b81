"""What is noted beside a tenant's versions: which one is active, and which were refused and why."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from gpu_worker.adapters.version_files import ACTIVE, REFUSED
from gpu_worker.domain.versions import Active


class VersionRecords(ABC):
    """The part of a ModelStore that is the same wherever the notes lie."""

    def active(self, tenant: str) -> Active:
        """See ModelStore."""
        return Active.from_json(self._record(tenant, ACTIVE))

    def set_active(self, tenant: str, active: Active) -> None:
        """See ModelStore."""
        self._write_record(tenant, ACTIVE, json.dumps(active.as_json()))

    def refusals(self, tenant: str) -> Mapping[str, str]:
        """See ModelStore."""
        return self._record(tenant, REFUSED)

    def set_refusals(self, tenant: str, refusals: Mapping[str, str]) -> None:
        """See ModelStore."""
        if refusals or self.refusals(tenant):
            self._write_record(tenant, REFUSED, json.dumps(refusals))

    def _record(self, tenant: str, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._read_record(tenant, name) or "{}")
        return content

    @abstractmethod
    def _read_record(self, tenant: str, name: str) -> str | bytes | None:
        """Give what was written under a name, None when nothing was."""

    @abstractmethod
    def _write_record(self, tenant: str, name: str, content: str) -> None:
        """Replace it in one step."""
