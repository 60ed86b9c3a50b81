"""The collections of all tenants as folders of qdrant-edge shards."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote

from servicekit.errors import FailedPreconditionError, NotFoundError
from servicekit.folders import folder_name, replace_file
from vector_search.adapters import edge_folder
from vector_search.adapters.edge_build import build
from vector_search.adapters.edge_index import EdgeVectorIndex
from vector_search.domain.dense import DenseIndex, Points, Space
from vector_search.domain.ports import Collection, Role

_CURRENT = "content.json"


class EdgeDenseStore:
    """A DenseStore in a folder of this machine, which one process at a time may have open.

    Args:
        root: Holds a folder for each tenant, and that one for each collection.
        build_timeout_s: How long making one collection may take.
    """

    def __init__(self, root: Path, *, build_timeout_s: float) -> None:
        self.is_shared = False
        self._root = root
        self._build_timeout_s = build_timeout_s
        self._opened: dict[Path, EdgeVectorIndex] = {}
        self._lock = asyncio.Lock()
        for tenant in root.iterdir() if root.is_dir() else ():
            edge_folder.sweep(tenant)

    async def survey(self) -> Mapping[str, Sequence[Collection]]:
        """Give the content collections that count, of all tenants."""
        tenants = [unquote(file.parent.name) for file in self._root.glob(f"*/{_CURRENT}")]
        return {tenant: await self.current(tenant) for tenant in tenants}

    async def current(self, tenant: str) -> Sequence[Collection]:
        """Give the content collections that count."""
        try:
            stored = json.loads((self._folder(tenant) / _CURRENT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [Collection(**{**each, "role": Role(each.get("role", Role.SERVING))}) for each in stored]

    async def assign(
        self, tenant: str, collections: Sequence[Collection], *, vacate: Sequence[Collection] = ()
    ) -> None:
        """Give collections their places."""
        complete = set(await self.names(tenant))
        for each in collections:
            if each.name not in complete:
                raise NotFoundError(f"tenant {tenant} has no collection {each.name}")
        taken = {each.place for each in (*collections, *vacate)}
        kept = [each for each in await self.current(tenant) if each.place not in taken]
        content = json.dumps([asdict(each) for each in (*kept, *collections)])
        await asyncio.to_thread(replace_file, self._folder(tenant) / _CURRENT, content)

    async def names(self, tenant: str) -> Sequence[str]:
        """Give the complete collections."""
        folder = self._folder(tenant)
        return sorted(
            path.parent.name for path in folder.glob("*/index.json") if edge_folder.BUILDING not in path.parent.name
        )

    async def open(self, tenant: str, name: str) -> DenseIndex:
        """Open a complete collection; a second time gives the same."""
        folder = self._folder(tenant) / name
        async with self._lock:
            if folder not in self._opened:
                space = edge_folder.read_space(folder)
                if space is None:
                    raise NotFoundError(f"tenant {tenant} has no collection {name}")
                self._opened[folder] = await EdgeVectorIndex.open(folder, space)
            return self._opened[folder]

    async def create(self, tenant: str, name: str, space: Space) -> DenseIndex:
        """Make an empty collection, or open the one of that name."""
        folder = self._folder(tenant) / name
        async with self._lock:
            if folder not in self._opened:
                self._opened[folder] = await EdgeVectorIndex.open(folder, space)
            opened = self._opened[folder]
        if opened.space != space:
            raise FailedPreconditionError(f"{folder} holds {opened.space}, not {space}")
        return opened

    async def build(self, tenant: str, name: str, space: Space, pages: AsyncIterable[Points]) -> DenseIndex:
        """Make an indexed collection."""
        await self.drop(tenant, name)
        await build(self._folder(tenant) / name, space, pages, timeout_s=self._build_timeout_s)
        return await self.open(tenant, name)

    async def drop(self, tenant: str, name: str) -> None:
        """Close and remove a collection."""
        folder = self._folder(tenant) / name
        async with self._lock:
            opened = self._opened.pop(folder, None)
            if opened is not None:
                await opened.close()
            if folder.is_dir():
                doomed = folder.with_name(f"{name}{edge_folder.BUILDING}dropped")
                folder.rename(doomed)  # in one step, so that nobody takes a half of it for whole
                await asyncio.to_thread(shutil.rmtree, doomed)

    async def close(self) -> None:
        """Close everything that was opened."""
        async with self._lock:
            while self._opened:
                await self._opened.popitem()[1].close()

    def _folder(self, tenant: str) -> Path:
        return self._root / folder_name(tenant)
