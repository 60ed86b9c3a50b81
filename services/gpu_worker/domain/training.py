"""What training takes and gives: plain arrays, whoever gathered them and wherever they go."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats, Keys

Halfs = npt.NDArray[np.float16]
Numbers = npt.NDArray[np.int32]
"""Item numbers: positions in the sorted item keys."""
Progress = Callable[[str, float], None]
"""Told the stage for people and the part done, 0 to 1."""


FactorModelName = Literal["ials", "elsa"]
Precision = Literal["float64", "float32"]
TrainerBackend = Literal["auto", "numpy", "torch"]


class HoldOut(StrEnum):
    """Which interactions the blend is fitted and judged on."""

    TIME = "time"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """With what a training computes; the same choice, data and seed give the same model.

    Args:
        backend: What solves EDLAE and finds neighbours: numpy, or torch and faiss.
        factors: The model behind the factors; elsa needs torch.
        dense_items: So many items take part in EDLAE, the most popular ones.
        threads: Of the linear algebra.
        device: Of torch: "cpu", "cuda", "cuda:1".
        precision: Of EDLAE on torch.
        memory_bytes: A Gram matrix larger than this stays off torch's device and is solved in strips.
    """

    backend: Literal["numpy", "torch"] = "numpy"
    factors: FactorModelName = "ials"
    dense_items: int = 12_000
    threads: int = 1
    device: str = "cpu"
    precision: Precision = "float64"
    memory_bytes: int = 8 << 30


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """What training wants to know of an item besides its interactions."""

    item_type: str
    item_id: str
    people: Sequence[str] = ()
    genres: Sequence[str] = ()
    recommendable: bool = True


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A tenant's catalogue and history.

    Args:
        item_keys: int64[N], sorted, distinct; the position is the item number.
        items: N items, in that order.
        user_keys: int64[I], of each interaction, grouped by user.
        interaction_keys: int64[I], item keys; by user, then time, then order of arrival. Unknown items are left out.
        weights: float32[I], signed.
        times_ms: int64[I].
        vector_keys: int64[M], sorted: the items whose text is embedded.
        vectors: float32[M, D], of length 1.
    """

    item_keys: Keys
    items: Sequence[TrainingItem]
    user_keys: Keys
    interaction_keys: Keys
    weights: Floats
    times_ms: Keys
    vector_keys: Keys
    vectors: Floats


@dataclass(frozen=True, slots=True)
class ItemTable:
    """An item-item table in rows: the row of a history item lists the items that follow from it.

    Args:
        indptr: int64[N + 1].
        indices: int32[nnz], item numbers, by falling weight within a row.
        weights: float16[nnz], signed.
    """

    indptr: Keys
    indices: Numbers
    weights: Halfs


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """How vector_search turns a history into the weights of a table's rows.

    The weight of the history item at position p (0 is the newest; items of one moment share their mean position when
    `ties_share_position`) is strength * 0.5^(p / half_life_items) * (floor + (1 - floor) * 0.5^(s / half_life_s)),
    with s the seconds before the user's newest interaction; a half-life of None does not decay.

    Args:
        scale: Every share of the source is multiplied by it.
        retrieval_weight: The share's weight in the choice of candidates; 0 only adds a feature.
    """

    scale: float
    retrieval_weight: float
    half_life_items: float | None = None
    ties_share_position: bool = False
    half_life_s: float | None = None
    time_floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Factors:
    """Item factors with a linear fold-in: a user is the weighted sum of the fold-in rows of the history.

    Args:
        items: float32[N, F].
        fold_in: float32[N, F].
        settings: How the history is weighed; the score is multiplied by the scale.
    """

    items: Floats
    fold_in: Floats
    settings: SourceSettings


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model before it has a name.

    Args:
        tables: By source name, with the settings of each.
        item_columns: float32[N] by name, features of items.
        serving: What the gateway needs: features, weights, sources, graph, fallback; JSON-ready.
        metrics: Hold-out metrics by ranker ("blend", "popularity", each source) and name ("NDCG@10").
        report: Choices, seconds by stage, weights; JSON-ready.
    """

    tables: Mapping[str, tuple[ItemTable, SourceSettings]]
    factors: Factors
    item_columns: Mapping[str, Floats]
    serving: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    report: Mapping[str, Any]
