"""Gathers what training learns from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_worker.domain.items import Item
from gpu_worker.domain.ports import Catalogue, VectorIndex
from gpu_worker.domain.training import Progress, TrainingData, TrainingItem
from servicekit.errors import FailedPreconditionError


@dataclass(frozen=True, slots=True)
class AttributeRoles:
    """Which attributes name people, and which genres."""

    people: tuple[str, ...]
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The data, and the items as they travel, in the order of the item numbers."""

    data: TrainingData
    items: Sequence[bytes]


async def gather(
    tenant: str, catalogue: Catalogue, index: VectorIndex, *, roles: AttributeRoles, progress: Progress
) -> Gathered:
    """Export a tenant's catalogue, interactions and vectors into arrays; what the catalogue lacks is left out.

    Raises:
        FailedPreconditionError: The catalogue is empty.
    """
    progress("reading the catalogue", 0.0)
    by_key: dict[int, Item] = {}
    async for page in catalogue.export_items(tenant):
        by_key.update((item.key, item) for item in page)
    if not by_key:
        raise FailedPreconditionError(f"tenant {tenant} has no items to train on")
    item_keys = np.array(sorted(by_key), np.int64)
    items = [by_key[key] for key in item_keys.tolist()]

    progress("reading the interactions", 0.2)
    users, acted_on, weights, times = [], [], [], []
    async for columns in catalogue.export_interactions(tenant):
        known = np.isin(columns.item_keys, item_keys)
        users.append(columns.user_keys[known])
        acted_on.append(columns.item_keys[known])
        weights.append(columns.weights[known])
        times.append(columns.times_ms[known])

    progress("reading the text vectors", 0.7)
    keys, vectors = [], []
    async for stored in index.export(tenant):
        known = np.isin(stored.keys, item_keys)
        keys.append(stored.keys[known])
        vectors.append(stored.vectors[known])
    vector_keys = np.concatenate(keys or [np.empty(0, np.int64)])
    vector_rows = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)
    order = np.argsort(vector_keys, kind="stable")

    data = TrainingData(
        item_keys=item_keys,
        items=[
            TrainingItem(
                item.item_type,
                item.item_id,
                people=item.values_of(roles.people),
                genres=item.values_of(roles.genres),
                recommendable=not item.hidden,
            )
            for item in items
        ],
        user_keys=np.concatenate(users or [np.empty(0, np.int64)]),
        interaction_keys=np.concatenate(acted_on or [np.empty(0, np.int64)]),
        weights=np.concatenate(weights or [np.empty(0, np.float32)]),
        times_ms=np.concatenate(times or [np.empty(0, np.int64)]),
        vector_keys=vector_keys[order],
        vectors=vector_rows[order],
    )
    return Gathered(data, [item.packed for item in items])


async def count_interactions(tenant: str, catalogue: Catalogue, *, enough: int) -> int:
    """Count a tenant's interactions, and stop as soon as there are enough."""
    count = 0
    async for columns in catalogue.export_interactions(tenant):
        count += len(columns.user_keys)
        if count >= enough:
            break
    return count
