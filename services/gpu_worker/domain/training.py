"""What training gets and what it gives: the contract of `gpu_worker.training.train`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_worker.domain.items import Item
from servicekit.arrays import Floats, Ints, Keys

Progress = Callable[[str, float], None]
"""Told what is being done, for people, and how much of the training is done, 0 to 1."""


class HoldOut(StrEnum):
    """Which interactions the blend is fitted on and judged by."""

    TIME = "time"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What a deployment may set.

    Args:
        threads: How many threads linear algebra may use.
        neighbours: The most entries of a row of an item-item table.
    """

    threads: int = 1
    neighbours: int = 400


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """One tenant's catalogue and interactions; N items, U users, E interactions, M embedded items.

    Item numbers are positions in `item_keys`, user numbers positions in `user_keys`. Interactions with items that the
    catalogue does not have are left out.

    Args:
        tenant: Whose.
        item_keys: int64[N], sorted.
        items: The N items in that order; hidden ones are among them.
        user_keys: int64[U], sorted.
        users: int32[E], the user number of each interaction; interactions are sorted by user, time and arrival.
        item_numbers: int32[E].
        weights: float32[E], signed.
        times_ms: int64[E].
        content_keys: int64[M], sorted, of items of the catalogue.
        content_vectors: float32[M, D], of length 1.
    """

    tenant: str
    item_keys: Keys
    items: tuple[Item, ...]
    user_keys: Keys
    users: Ints
    item_numbers: Ints
    weights: Floats
    times_ms: Keys
    content_keys: Keys
    content_vectors: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An item-item table: row = history item, entries = its neighbours, the largest absolute weight first.

    Args:
        indptr: int64[N + 1].
        indices: int32[nnz], item numbers.
        weights: float16 or float32[nnz], signed.
    """

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float16] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """How good the lists for the hold-out were, user by user.

    Args:
        user_keys: int64[Q], the users judged, sorted.
        ndcg: For "blend", "popularity" and each source alone: float32[Q], the mean NDCG@10 of the user's lists.
        metrics: For the same names: the mean over all users of each metric, such as "NDCG@10" or "HR@10".
    """

    user_keys: Keys
    ndcg: Mapping[str, Floats]
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """What `train(data, config, seed, hold_out, progress)` gives.

    Args:
        tables: Written as `<name>.indptr.npy`, `<name>.indices.npy`, `<name>.weights.npy`.
        arrays: Further files by name without `.npy`, each with one row per item: "factors" float32[N, F], "fold_in"
            float32[N, F], "log_popularity" float32[N] and other item columns.
        manifest: Top-level entries of the manifest: "sources", "retrieval_weights", "item_columns", "factors",
            "serving" (without "version" and "fallback") and whatever else vector_search or the gateway shall read.
            Plain JSON.
        fallback: int32[:200], item numbers of the list that is given when nothing else can be, best first.
        judgement: The hold-out's verdict.
        report: For people, into the manifest as "report": seconds by stage, what was chosen and why. Plain JSON.
    """

    tables: Mapping[str, Table]
    arrays: Mapping[str, npt.NDArray[Any]]
    manifest: Mapping[str, Any]
    fallback: Ints
    judgement: Judgement
    report: Mapping[str, Any] = field(default_factory=dict)


Train = Callable[[TrainingData, TrainingConfig, int, HoldOut, Progress], TrainedModel]
"""`train(data, config, seed, hold_out, progress)`: the same data, seed and hold-out give the same model."""
