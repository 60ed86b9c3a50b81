"""Keeps the vectors of the catalogue's texts up to date."""

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from gpu_worker.domain.items import Item, TextRules, hash_of
from gpu_worker.domain.ports import Announcer, EmbeddedItem, Embedding, Mark, Neighbours, TextEncoder, VectorIndex
from servicekit.arrays import Floats
from servicekit.clock import Clock, SystemClock
from servicekit.errors import InvalidArgumentError, NotFoundError, ServiceError

_MAX_AHEAD_MS = 5 * 60 * 1000


@dataclass(frozen=True, slots=True)
class ItemPut:
    """An item has this state."""

    event_id: str
    occurred_at_ms: int
    item: Item

    @property
    def tenant(self) -> str:
        """Give whose it is."""
        return self.item.tenant

    @property
    def key(self) -> int:
        """Give the item's key."""
        return self.item.key


@dataclass(frozen=True, slots=True)
class ItemDeleted:
    """An item is gone."""

    event_id: str
    occurred_at_ms: int
    tenant: str
    key: int


Change = ItemPut | ItemDeleted


class ContentEmbedder:
    """Embeds the texts that are new and passes everything else on without embedding it again.

    An unchanged text is known by the mark of its stored vector. Of several changes of one item only the last counts,
    by the times of its states: vector_search leaves out what is older than what it knows, and that is not announced.
    A time more than five minutes ahead is refused, as everywhere, since such a state would win for ever.
    The announcement comes after the vector is stored and is repeated with every repetition of a change, so that a
    crash between the two loses nothing.

    Args:
        neighbours: How many nearest neighbours are announced with an item.
        cached_vectors: How many vectors are kept by their text, for a batch that must be tried again.
        clock: Tells what is ahead.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        index: VectorIndex,
        announcer: Announcer,
        *,
        rules: TextRules,
        neighbours: int = 100,
        cached_vectors: int = 4_096,
        clock: Clock | None = None,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._announcer = announcer
        self._rules = rules
        self._neighbours = neighbours
        self._cached_vectors = cached_vectors
        self._clock = clock or SystemClock()
        self._vectors: OrderedDict[str, Floats] = OrderedDict()

    async def apply(self, changes: Sequence[Change]) -> Sequence[ServiceError | None]:
        """Apply changes, and give for each why it cannot be applied, None when it was.

        Raises:
            UnavailableError: vector_search or the log cannot be reached; applying them again is right.
        """
        outcomes: list[ServiceError | None] = [None] * len(changes)
        last: dict[int, int] = {}
        latest_ms = self._clock.now_ms() + _MAX_AHEAD_MS
        for number, change in enumerate(changes):
            if change.occurred_at_ms > latest_ms:
                outcomes[number] = InvalidArgumentError("the time of the change lies ahead", field="occurred_at_ms")
                continue
            before = last.get(change.key)
            if before is None or change.occurred_at_ms >= changes[before].occurred_at_ms:
                last[change.key] = number
        deleted: dict[str, list[ItemDeleted]] = defaultdict(list)
        puts: dict[int, ItemPut] = {}
        for number in last.values():
            change = changes[number]
            if isinstance(change, ItemPut):
                puts[number] = change
            else:
                deleted[change.tenant].append(change)
        for tenant, gone in deleted.items():
            keys = np.array([each.key for each in gone], np.int64)
            await self._index.delete(tenant, keys, np.array([each.occurred_at_ms for each in gone], np.int64))
        for number, outcome in zip(puts, await self._embed(list(puts.values())), strict=True):
            outcomes[number] = outcome
        return outcomes

    async def _embed(self, puts: Sequence[ItemPut]) -> Sequence[ServiceError | None]:
        texts = [self._rules.text_of(put.item) for put in puts]
        marks = [Mark(self._encoder.model_id, hash_of(text)) for text in texts]
        stored = await self._stored_marks([put.item for put in puts])
        changed = [n for n, text in enumerate(texts) if text and stored[n] != marks[n]]
        kept = [n for n, text in enumerate(texts) if text and stored[n] == marks[n]]
        outcomes = dict(zip(kept, await self._upsert(kept, puts, marks, [None] * len(kept)), strict=True))
        # A vector may have been lost between the question and the write.
        changed += [n for n, outcome in outcomes.items() if isinstance(outcome, NotFoundError)]
        vectors = await self._encode([texts[n] for n in changed])
        outcomes |= zip(changed, await self._upsert(changed, puts, marks, vectors), strict=True)
        await self._announcer.announce_embedded(
            [
                EmbeddedItem(_event_id(puts[n].event_id, marks[n]), puts[n].item, marks[n], outcome)
                for n, outcome in outcomes.items()
                if isinstance(outcome, Neighbours)
            ]
        )
        found = (outcomes.get(number) for number in range(len(puts)))
        return [outcome if isinstance(outcome, ServiceError) else None for outcome in found]

    async def _stored_marks(self, items: Sequence[Item]) -> Sequence[Mark]:
        by_tenant: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(items):
            by_tenant[item.tenant].append(number)
        marks: dict[int, Mark] = {}
        for tenant, numbers in by_tenant.items():
            keys = np.array([items[number].key for number in numbers], np.int64)
            marks.update(zip(numbers, await self._index.marks(tenant, keys), strict=True))
        return [marks[number] for number in range(len(items))]

    async def _upsert(
        self, numbers: Sequence[int], puts: Sequence[ItemPut], marks: Sequence[Mark], vectors: Sequence[Floats | None]
    ) -> Sequence[Neighbours | ServiceError | None]:
        if not numbers:
            return ()
        embeddings = [Embedding(puts[n].item, marks[n], vector) for n, vector in zip(numbers, vectors, strict=True)]
        return await self._index.upsert(embeddings, neighbours=self._neighbours)

    async def _encode(self, texts: Sequence[str]) -> Sequence[Floats]:
        unknown = list(dict.fromkeys(text for text in texts if text not in self._vectors))
        fresh = dict(zip(unknown, await self._encoder.encode(unknown), strict=True)) if unknown else {}
        vectors = [fresh[text] if text in fresh else self._vectors[text] for text in texts]
        self._vectors |= fresh
        while len(self._vectors) > self._cached_vectors:
            self._vectors.popitem(last=False)
        return vectors


def _event_id(cause: str, mark: Mark) -> str:
    return blake2b(f"{cause}\0{mark.model_id}\0{mark.content_hash}".encode(), digest_size=16).hexdigest()
