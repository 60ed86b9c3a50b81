"""A training process for the tests that trains a plain baseline: popularity and co-occurrence counts."""

import sys

import numpy as np
from scipy import sparse

from gpu_worker import training_main
from gpu_worker.domain.training import (
    Factors,
    HoldOut,
    ItemTable,
    Progress,
    SourceSettings,
    TrainedModel,
    TrainingData,
)
from servicekit.errors import FailedPreconditionError

PLAIN = SourceSettings(scale=1.0, retrieval_weight=1.0)


def train(data: TrainingData, *, hold_out: HoldOut, seed: int, progress: Progress) -> TrainedModel:
    """Count; the seed decides what happens to the process."""
    progress("cooccurrence", 0.0)
    if seed == 13:
        raise FailedPreconditionError("too few users")
    if seed == 14:
        sys.exit(3)
    items = len(data.item_keys)
    numbers = np.searchsorted(data.item_keys, data.interaction_keys)
    users = np.unique(data.user_keys, return_inverse=True)[1]
    matrix = sparse.csr_array((np.ones(len(users), np.float32), (users, numbers)), shape=(users.max() + 1, items))
    counts = sparse.csr_array(matrix.T @ matrix)
    popularity = np.bincount(numbers, minlength=items)
    progress("done", 1.0)
    table = ItemTable(counts.indptr.astype(np.int64), counts.indices.astype(np.int32), counts.data.astype(np.float16))
    quality = 0.5 - seed / 100
    return TrainedModel(
        tables={"cooccurrence": (table, PLAIN)},
        factors=Factors(np.zeros((items, 2), np.float32), np.zeros((items, 2), np.float32), PLAIN),
        item_columns={"log_popularity": np.log1p(popularity).astype(np.float32)},
        serving={"features": ["cooccurrence"], "weights": [1.0]},
        metrics={"blend": {"NDCG@10": quality}, "popularity": {"NDCG@10": 0.3}},
        report={"hold_out": hold_out.value, "standard_errors": {"NDCG@10": 0.01}},
    )


if __name__ == "__main__":
    sys.exit(training_main.main(sys.argv[1:], train_with=train))
