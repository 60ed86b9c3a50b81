"""Keeps what the active model says about serving, and makes plans from it."""

import asyncio
from collections.abc import Mapping

from hot_path_api.application.catalogue import Catalogue, read_or_none
from hot_path_api.domain.plan import Plan, plan_algorithm, plan_weights
from hot_path_api.domain.ports import VectorIndex
from hot_path_api.domain.recommendations import Algorithm
from hot_path_api.domain.serving import UNTRAINED, ServingModel, parse_serving
from servicekit.errors import ServiceError
from servicekit.identity import item_key
from servicekit.logs import get_logger

_TIMEOUT_S = 2.0
_HURRY_S = 0.25


class ServingModels:
    """The serving model of each tenant, as last heard.

    When vector_search cannot be asked, or its answer cannot be used, the last good one stays.
    """

    def __init__(self, index: VectorIndex, catalogue: Catalogue, *, tenants: tuple[str, ...]) -> None:
        self._index = index
        self._catalogue = catalogue
        self._models = dict.fromkeys(tenants, UNTRAINED)
        self._documents = dict.fromkeys(tenants, "")
        self._plans: dict[tuple[str, Algorithm], Plan] = {}
        self._unheard = set(tenants)
        self._news = asyncio.Event()
        self._log = get_logger(__name__)

    def current(self, tenant: str) -> ServingModel:
        """Give the tenant's model."""
        return self._models[tenant]

    @property
    def are_known(self) -> bool:
        """Whether vector_search has told of every tenant once."""
        return not self._unheard

    def plan(self, tenant: str, algorithm: Algorithm, weights: Mapping[str, float] | None) -> Plan:
        """Plan a request.

        Raises:
            InvalidArgumentError: The weights name a source that does not exist.
        """
        if weights is not None:
            return plan_weights(self._models[tenant], weights)
        plan = self._plans.get((tenant, algorithm))
        if plan is None:
            plan = self._plans[tenant, algorithm] = plan_algorithm(self._models[tenant], algorithm)
        return plan

    def heard_of(self, tenant: str, version: str) -> None:
        """Take note of a version that answers; one that is not the known one is asked about soon."""
        model = self._models.get(tenant)
        if model is not None and version and version != model.version:
            self._news.set()

    async def run(self, stop: asyncio.Event, *, refresh_s: float) -> None:
        """Ask again every so many seconds, and at once when a new version is heard of, until stopped."""
        while not stop.is_set():
            self._news.clear()
            heard = [await self.refresh(tenant) for tenant in self._models]
            pause_s = refresh_s if all(heard) else min(refresh_s, _HURRY_S)
            waits = [asyncio.create_task(event.wait()) for event in (stop, self._news)]
            await asyncio.wait(waits, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            # A version that vector_search answers with and does not describe yet must not make this loop hot.
            await asyncio.sleep(0.05)

    async def refresh(self, tenant: str) -> bool:
        """Ask what serves now; tell whether there was an answer that can be used."""
        try:
            document = await self._index.serving_document(tenant, timeout_s=_TIMEOUT_S)
            if document == self._documents[tenant]:
                self._unheard.discard(tenant)
                return True
            model = parse_serving(document)
        except ServiceError as error:
            self._log.warning("the serving model could not be read", tenant=tenant, error=error.message)
            return False
        self._models[tenant], self._documents[tenant] = model, document
        self._plans.clear()
        self._log.info("serving model", tenant=tenant, version=model.version)
        # The static list must be at hand when the store that holds its items is not.
        keys = [item_key(tenant, ref.item_type, ref.item_id) for ref in model.fallback]
        await read_or_none(self._catalogue, keys, timeout_s=_TIMEOUT_S)
        self._unheard.discard(tenant)
        return True
