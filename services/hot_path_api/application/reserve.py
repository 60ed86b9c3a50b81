"""What lists and writes fall back on while profile_store is away, read before it is needed.

That is what is popular, those items, and the types that interactions may have.
"""

import asyncio

from hot_path_api.application.catalogue import Catalogue, read_or_none
from hot_path_api.application.interaction_types import KnownInteractionTypes
from hot_path_api.application.models import ServingModels
from hot_path_api.application.popularity import PopularityLists
from servicekit.errors import ServiceError

_ITEMS = 200
"""So many of the most popular items are kept at hand: two of the longest lists."""


class Reserve:
    """Reads that every so often, also when nobody asks.

    A model's static list would do too, but before the first training there is none.

    Args:
        popularity: Keeps the list.
        catalogue: Keeps the items.
        types: Keeps the interaction types.
        models: Say over which past popularity is counted.
        tenant: Whose.
        timeout_s: How long one read may take.
    """

    def __init__(
        self,
        popularity: PopularityLists,
        catalogue: Catalogue,
        types: KnownInteractionTypes,
        models: ServingModels,
        *,
        tenant: str,
        timeout_s: float,
    ) -> None:
        self._popularity = popularity
        self._catalogue = catalogue
        self._types = types
        self._models = models
        self._tenant = tenant
        self._timeout_s = timeout_s

    async def run(self, stop: asyncio.Event, *, every_s: float) -> None:
        """Go on until told to stop."""
        while not stop.is_set():
            await self.renew()
            try:
                await asyncio.wait_for(stop.wait(), every_s)
            except TimeoutError:
                continue

    async def renew(self) -> None:
        """Read once; where that fails, what was read before stays."""
        window = self._models.current(self._tenant).trending_window
        try:
            await self._types.all(self._tenant)
            popularity, _ = await self._popularity.get(self._tenant, window, (), timeout_s=self._timeout_s)
        except ServiceError:
            return  # each list that lacks it says so
        self._popularity.fall_back_on(self._tenant, popularity)
        await read_or_none(self._catalogue, popularity.keys[:_ITEMS].tolist(), timeout_s=self._timeout_s)
