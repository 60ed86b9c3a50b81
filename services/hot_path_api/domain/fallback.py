"""The model's static list: what is shown when nobody else answers."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from hot_path_api.domain.items import Item, ItemRef
from hot_path_api.domain.popularity import Popularity
from hot_path_api.domain.serving import ServingModel
from servicekit.identity import item_key


def fallback_popularity(tenant: str, model: ServingModel) -> Popularity:
    """Give the list the shape of popular items."""
    count = len(model.fallback)
    keys = np.array([item_key(tenant, ref.item_type, ref.item_id) for ref in model.fallback], np.int64)
    return Popularity(keys, np.linspace(1.0, 1.0 / max(count, 1), count, dtype=np.float32))


@lru_cache(maxsize=16)
def fallback_items(tenant: str, refs: tuple[ItemRef, ...]) -> Mapping[int, Item]:
    """Give the list's items by key as far as their identity goes, for when nobody can say more of them."""
    keys = [item_key(tenant, ref.item_type, ref.item_id) for ref in refs]
    return {key: Item(key=key, tenant=tenant, ref=ref) for key, ref in zip(keys, refs, strict=True)}
