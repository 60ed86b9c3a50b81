"""Chooses from ranked candidates: what may be shown, in which order, how different from one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hot_path_api.application.catalogue import Catalogue
from hot_path_api.domain.diversity import diversify
from hot_path_api.domain.items import Item
from servicekit.arrays import Floats, Keys
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.filters import Filter

# A few more are looked up than are wanted, because some may be gone or hidden by now.
_SLACK = 4
_CHUNK = 100
_DIVERSITY_POOL = 200


@dataclass(slots=True)
class Chosen:
    """Ranks in the list of candidates, from 0, with the items that stand there."""

    ranks: list[int]
    items: list[Item]
    items_missing: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What an item must be to be shown.

    Args:
        filter: Its attributes pass this.
        known: Items that may be shown though the catalogue cannot be read.
    """

    filter: Filter = ()
    known: Mapping[int, Item] | None = None


class Selector:
    """Looks up the best candidates' items and takes those that may be shown."""

    def __init__(self, catalogue: Catalogue, *, clock: Clock) -> None:
        self._catalogue = catalogue
        self._clock = clock

    async def choose(
        self,
        keys: Keys,
        scores: Floats,
        *,
        want: int,
        conditions: Conditions,
        timeout_s: float,
        diversity: float = 0.0,
        caps: Mapping[str, int] | None = None,
    ) -> Chosen:
        """Choose up to `want` of the candidates, best first.

        Args:
            keys: int64[N], distinct, best first.
            scores: float32[N].
            want: How many.
            conditions: What may be shown.
            timeout_s: How long the look-up of items may take.
            diversity: 0 for the order of the scores, up to 1 for the greatest difference.
            caps: For an attribute, how many items that share a value of it may be chosen.
        """
        if not diversity and not caps:
            return await self._take(keys, want, conditions, timeout_s)
        pool = await self._take(keys, max(2 * want, _DIVERSITY_POOL), conditions, timeout_s)
        picked = diversify(pool.items, scores[pool.ranks], diversity=diversity, caps=caps or {}, want=want)
        return Chosen([pool.ranks[at] for at in picked], [pool.items[at] for at in picked], pool.items_missing)

    async def items(self, keys: Sequence[int], *, timeout_s: float) -> tuple[list[Item | None], ServiceError | None]:
        """Look items up; what cannot be read is None, with the error that says why."""
        try:
            return await self._catalogue.get(keys, timeout_s=timeout_s), None
        except ServiceError as error:
            return [self._catalogue.peek(key) for key in keys], error

    async def _take(self, keys: Keys, want: int, conditions: Conditions, timeout_s: float) -> Chosen:
        chosen = Chosen([], [])
        begin, size = 0, want + _SLACK
        now_ms = self._clock.now_ms()
        while begin < len(keys):
            wanted = keys[begin : begin + size].tolist()
            items, error = await self.items(wanted, timeout_s=timeout_s)
            chosen.items_missing = chosen.items_missing or error
            for rank, item in enumerate(items, begin):
                shown = item or (conditions.known.get(wanted[rank - begin]) if conditions.known else None)
                if shown is not None and shown.is_available(now_ms) and shown.passes(conditions.filter):
                    chosen.ranks.append(rank)
                    chosen.items.append(shown)
                    if len(chosen.ranks) == want:
                        return chosen
            begin, size = begin + size, _CHUNK
        return chosen
