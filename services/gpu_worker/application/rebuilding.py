"""Content vectors made anew from the catalogue or the log, beside those that serve."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_worker.domain.items import Item, TextRules, hash_of
from gpu_worker.domain.ports import Embedding, Mark, TextEncoder
from gpu_worker.domain.rebuilding import ItemSource, Rebuild, RebuildState, RebuiltIndex, Source
from servicekit.errors import FailedPreconditionError, NotFoundError, ServiceError
from servicekit.logs import get_logger

_REMEMBERED = 100
_TEXTS = 256  # embedded at once
_MAX_PASSES = 8
_FIRST_PASS = 0.9  # the part of a rebuild that the first pass is
_SAMPLES = 200
_AGAIN_S, _AGAIN_AT_MOST_S = 60.0, 3_600.0
_SAME = 0.999  # the cosine of two embeddings of one text; batches and machines add up in different orders

_log = get_logger(__name__)


class VectorRebuilds:
    """One rebuild of a tenant at a time. Rebuilds are forgotten after a restart; what they had begun never serves.

    All items are read, and what the new collection lacks is stored there: the serving collection's vector where it is
    of the same text, a new embedding otherwise. Writes that happen meanwhile go to both collections. That is done
    again until there is nothing left to do, so that what changed between reading and writing is right too; then
    vector_search verifies and switches.

    Args:
        settle_s: By then every replica of vector_search knows of a new collection.
    """

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        index: RebuiltIndex,
        sources: Mapping[Source, ItemSource],
        rules: TextRules,
        new_token: Callable[[], str],
        settle_s: float = 1.0,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._sources = sources
        self._rules = rules
        self._new_token = new_token
        self._settle_s = settle_s
        self._rebuilds: OrderedDict[str, Rebuild] = OrderedDict()
        self._tenants: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tried: dict[str, tuple[int, float]] = {}

    async def start(self, tenant: str, source: Source) -> str:
        """Begin a rebuild and give its id.

        Raises:
            FailedPreconditionError: One of this tenant is running here.
        """
        if tenant in self._tenants:
            raise FailedPreconditionError(f"the vectors of tenant {tenant} are being rebuilt; wait for its end")
        self._tenants.add(tenant)
        rebuild_id = self._new_token()
        self._rebuilds[rebuild_id] = Rebuild(rebuild_id, tenant)
        while len(self._rebuilds) > _REMEMBERED:
            self._rebuilds.popitem(last=False)
        # In a context of its own: the deadline of the call that starts a rebuild is not the rebuild's.
        task = asyncio.create_task(self._run(rebuild_id, source), name=f"rebuild-{rebuild_id}", context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return rebuild_id

    def get(self, rebuild_id: str) -> Rebuild:
        """Tell how a rebuild is going.

        Raises:
            NotFoundError: There is no such rebuild, or it is forgotten.
        """
        try:
            return self._rebuilds[rebuild_id]
        except KeyError:
            raise NotFoundError(f"no rebuild {rebuild_id} is known here", field="rebuild_id") from None

    async def fill_gaps(self) -> None:
        """Begin a rebuild of each tenant of which vector_search says that vectors are lost.

        A gap that stays is tried again after twice as long each time.
        """
        now = asyncio.get_running_loop().time()
        gaps = await self._index.gaps()
        self._tried = {tenant: tried for tenant, tried in self._tried.items() if tenant in gaps}
        for tenant, items in gaps.items():
            tries, not_before = self._tried.get(tenant, (0, now))
            if tenant not in self._tenants and now >= not_before:
                _log.warning("vectors are lost; rebuilding", tenant=tenant, items=items)
                self._tried[tenant] = tries + 1, now + min(_AGAIN_S * 2**tries, _AGAIN_AT_MOST_S)
                await self.start(tenant, Source.PROFILE_STORE)

    async def watch_gaps(self, interval_s: float) -> None:
        """Fill gaps now and every so many seconds, for as long as the service runs."""
        while True:
            try:
                await self.fill_gaps()
            except ServiceError as error:
                _log.info("vector_search cannot be asked for lost vectors, asking again", error=error.message)
            await asyncio.sleep(interval_s)

    async def close(self) -> None:
        """Break off what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, rebuild_id: str, source: Source) -> None:
        tenant = self._rebuilds[rebuild_id].tenant
        try:
            sample = await self._make(rebuild_id, tenant, self._sources[source])
            self._note(rebuild_id, stage="comparing a sample", progress=0.99)
            differing = await self._count_differing(tenant, sample)
            self._note(
                rebuild_id,
                state=RebuildState.SUCCEEDED,
                stage="done",
                progress=1.0,
                sampled=len(sample),
                differing=differing,
            )
            _log.info("vectors rebuilt", tenant=tenant, sampled=len(sample), differing=differing)
        except ServiceError as error:
            self._note(rebuild_id, state=RebuildState.FAILED, message=error.message)
            _log.warning("the rebuild failed", tenant=tenant, error=error.message)
        except Exception as error:  # noqa: BLE001 - whatever broke, the rebuild must say that it has ended
            self._note(rebuild_id, state=RebuildState.FAILED, message=f"a fault of the service: {error!r}")
            _log.exception("the rebuild failed", tenant=tenant)
        finally:
            self._tenants.discard(tenant)

    async def _make(self, rebuild_id: str, tenant: str, source: ItemSource) -> Sequence[Item]:
        """Fill a new collection and switch to it; give some of its items."""
        self._note(rebuild_id, stage="beginning")
        begun = await self._index.begin(tenant, self._encoder.model_id, self._encoder.dimensions)
        settled = asyncio.get_running_loop().time() + self._settle_s
        keys: set[int] = set()
        for number in range(_MAX_PASSES):
            done = _Pass(begun.serving_vectors if number == 0 else len(keys))
            await self._pass(rebuild_id, tenant, source, begun.collection, done, is_first=number == 0)
            gone = keys - done.keys
            if gone:
                await self._index.delete(tenant, np.array(sorted(gone), np.int64))
            keys = done.keys
            if number and not done.stored and not gone:
                break
            await asyncio.sleep(settled - asyncio.get_running_loop().time())
        self._note(rebuild_id, stage="verifying and switching", progress=0.95)
        finished = await self._index.finish(tenant, begun.collection, least_vectors=_least(len(keys)))
        self._note(
            rebuild_id,
            vectors=finished.vectors,
            previous_vectors=finished.previous_vectors,
            recall_at_10=finished.recall_at_10,
        )
        return done.sample

    async def _pass(
        self, rebuild_id: str, tenant: str, source: ItemSource, collection: str, done: "_Pass", *, is_first: bool
    ) -> None:
        """Read all items once, and store what the new collection lacks."""
        async for page in source.export_items(tenant):
            texts = {item.key: self._rules.text_of(item) for item in page}
            items = [item for item in page if texts[item.key]]
            done.see(items)
            wanted = [Embedding(item, Mark(self._encoder.model_id, hash_of(texts[item.key])), None) for item in items]
            if wanted:
                encoded = await self._store(tenant, collection, wanted, texts, done)
                rebuild = self._rebuilds[rebuild_id]
                self._note(
                    rebuild_id,
                    stage="storing vectors" if is_first else "comparing",
                    items=len(done.keys),
                    encoded=rebuild.encoded + encoded,
                    progress=_FIRST_PASS * done.part if is_first else _FIRST_PASS,
                )

    async def _store(
        self, tenant: str, collection: str, wanted: Sequence[Embedding], texts: Mapping[int, str], done: "_Pass"
    ) -> int:
        """Store what a page lacks, and give how many texts were embedded for it."""
        keys = np.array([each.item.key for each in wanted], np.int64)
        marks = await self._index.marks(tenant, keys, collection=collection)
        lacking = [each for each, mark in zip(wanted, marks, strict=True) if mark != each.mark]
        if not lacking:
            return 0
        done.stored += len(lacking)
        outcomes = await self._index.fill(lacking, collection=collection)
        unknown = []
        for each, outcome in zip(lacking, outcomes, strict=True):
            if isinstance(outcome, NotFoundError):
                unknown.append(each)
            elif outcome is not None:
                raise outcome
        for first in range(0, len(unknown), _TEXTS):
            chunk = unknown[first : first + _TEXTS]
            vectors = await self._encoder.encode([texts[each.item.key] for each in chunk])
            made = [replace(each, vector=vector) for each, vector in zip(chunk, vectors, strict=True)]
            for outcome in await self._index.fill(made, collection=collection):
                if outcome is not None:
                    raise outcome
        return len(unknown)

    async def _count_differing(self, tenant: str, sample: Sequence[Item]) -> int:
        """Embed some items again, and count those of which another vector is stored, or none."""
        differing = 0
        for first in range(0, len(sample), _TEXTS):
            items = sample[first : first + _TEXTS]
            texts = [self._rules.text_of(item) for item in items]
            vectors = await self._encoder.encode(texts)
            stored = await self._index.stored(tenant, np.array([item.key for item in items], np.int64))
            for text, vector, (mark, found) in zip(texts, vectors, stored, strict=True):
                is_same = found is not None and float(vector @ found) >= _SAME * float(np.linalg.norm(vector))
                differing += mark.content_hash != hash_of(text) or not is_same
        return differing

    def _note(self, rebuild_id: str, **changes: Any) -> None:
        rebuild = self._rebuilds.get(rebuild_id)
        if rebuild is not None:
            self._rebuilds[rebuild_id] = replace(rebuild, **changes)


class _Pass:
    """What one reading of all items has seen; `about` is how many are expected."""

    def __init__(self, about: int) -> None:
        self._about = max(about, 1)
        self._random = random.Random(0)
        self.keys: set[int] = set()
        self.sample: list[Item] = []
        self.stored = 0

    @property
    def part(self) -> float:
        """Give how much of what is expected was seen, below 1."""
        return len(self.keys) / max(self._about, len(self.keys) + 1)

    def see(self, items: Sequence[Item]) -> None:
        """Count items, and keep a sample that all have the same chance to be in."""
        for item in items:
            self.keys.add(item.key)
            if len(self.sample) < _SAMPLES:
                self.sample.append(item)
            elif (place := self._random.randrange(len(self.keys))) < _SAMPLES:
                self.sample[place] = item


def _least(items: int) -> int:
    """Give how many vectors make a collection whole: a few items may be deleted between counting and switching."""
    return max(0, items - max(10, items // 100))
