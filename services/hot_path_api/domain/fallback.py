"""The model's static list: what is shown when nobody else answers."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from hot_path_api.domain.candidates import NO_CANDIDATES, TRENDING, Candidates
from hot_path_api.domain.items import Item, ItemRef
from hot_path_api.domain.serving import ServingModel
from servicekit.identity import item_key


def fallback_candidates(tenant: str, model: ServingModel) -> Candidates:
    """Give the list the shape of popular items."""
    count = len(model.fallback)
    if not count:
        return NO_CANDIDATES
    return Candidates(
        keys=np.array([item_key(tenant, ref.item_type, ref.item_id) for ref in model.fallback], np.int64),
        names=(TRENDING,),
        features=np.linspace(1.0, 1.0 / count, count, dtype=np.float32)[np.newaxis, :],
        because=np.full(count, -1, np.int32),
        shares=frozenset({TRENDING}),
    )


@lru_cache(maxsize=16)
def fallback_items(tenant: str, refs: tuple[ItemRef, ...]) -> Mapping[int, Item]:
    """Give the list's items by key as far as their identity goes, for when nobody can say more of them."""
    keys = [item_key(tenant, ref.item_type, ref.item_id) for ref in refs]
    return {key: Item(key=key, tenant=tenant, ref=ref) for key, ref in zip(keys, refs, strict=True)}
