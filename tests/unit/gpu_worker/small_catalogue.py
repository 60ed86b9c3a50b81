"""A small catalogue with a structure that a good model finds: users walk in order through one group of items."""

from functools import cache

import numpy as np

from gpu_worker.domain.ports import TrainingJob
from gpu_worker.domain.training import HoldOut, TrainingData, TrainingItem
from recommendation.common.v1 import common_pb2
from servicekit.identity import item_key

N_ITEMS = 60
GROUPS = 6  # of ten items each
DAY_MS = 86_400_000


@cache
def small_data() -> TrainingData:
    """Give the catalogue of a tenant `t` and 120 users' histories."""
    generator = np.random.default_rng(7)
    keys = np.array([item_key("t", "film", f"f{number}") for number in range(N_ITEMS)])
    users, items, times = [], [], []
    for user in range(120):
        start = generator.integers(0, 10)
        for step in range(7):
            users.append(user)
            items.append(keys[user % GROUPS * 10 + (start + step) % 10])
            times.append(1_600_000_000_000 + step * 60_000)
    vectors = np.repeat(np.eye(GROUPS, dtype=np.float32), 10, axis=0)
    vectors += 0.1 * generator.normal(size=vectors.shape).astype(np.float32)
    order = np.argsort(keys)
    return TrainingData(
        item_keys=keys[order],
        items=[TrainingItem("film", f"f{number}", genres=(f"g{number // 10}",)) for number in order],
        user_keys=np.array(users),
        interaction_keys=np.array(items),
        weights=np.ones(len(users), np.float32),
        times_ms=np.array(times),
        vector_keys=keys[order],
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[order],
    )


def small_job(version: str, hold_out: HoldOut = HoldOut.TIME) -> TrainingJob:
    """Give the training of a version of it."""
    data = small_data()
    items = [common_pb2.Item(tenant="t", item_type=item.item_type, item_id=item.item_id) for item in data.items]
    return TrainingJob(
        tenant="t",
        version=version,
        hold_out=hold_out,
        seed=3,
        data=data,
        items=[item.SerializeToString() for item in items],
        manifest={
            "trained_at_ms": int(data.times_ms.max()) + DAY_MS,
            "data": {"items": N_ITEMS, "users": 120, "interactions": len(data.user_keys)},
            "log_position": {},
            "encoder": {"model_id": "groups/1", "dimensions": GROUPS},
            "parents": {},
            "git_revision": "",
        },
    )
