"""Turns lists and what users really took into the figures of a report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from recommend_cli.evaluation.metrics import (
    CUTOFF,
    METRICS,
    coverage,
    mean_and_standard_error,
    mean_popularity,
)

COVERAGE: Final = f"coverage@{CUTOFF}"
MEAN_POPULARITY: Final = "mean_popularity"

Figures = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A list that was given to a user, and the items that count as right."""

    user: int
    recommended: Sequence[str]
    relevant: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scored:
    """The figures of one system on one split.

    `by_user` gives for each metric the mean over each user's predictions; users in the same order everywhere.
    """

    by_user: Mapping[str, Sequence[float]]
    coverage: float
    mean_popularity: float


def score(predictions: Sequence[Prediction], *, popularity: Mapping[str, int], catalogue_size: int) -> Scored:
    """Score one system's predictions; `popularity` counts the training interactions of each item."""
    by_user: dict[str, list[float]] = {}
    for name, metric in METRICS.items():
        values: dict[int, list[float]] = defaultdict(list)
        for prediction in predictions:
            values[prediction.user].append(metric(prediction.recommended, prediction.relevant))
        by_user[name] = [float(np.mean(values[user])) for user in sorted(values)]
    lists = [prediction.recommended for prediction in predictions]
    return Scored(by_user, coverage(lists, catalogue_size=catalogue_size), mean_popularity(lists, popularity))


def summarize(runs: Sequence[Scored]) -> Figures:
    """Give the mean over users, each averaged over the runs first, with its standard error.

    Coverage and popularity belong to all lists together: their error is that over the runs, 0 for a single one.
    """
    figures: Figures = {}
    for name in METRICS:
        per_user = np.mean([run.by_user[name] for run in runs], axis=0)
        mean, error = mean_and_standard_error(per_user.tolist())
        figures[name] = {"mean": mean, "se": error}
    for name, values in (
        (COVERAGE, [run.coverage for run in runs]),
        (MEAN_POPULARITY, [run.mean_popularity for run in runs]),
    ):
        mean, error = mean_and_standard_error(values)
        figures[name] = {"mean": mean, "se": error}
    return figures


def spread(runs: Sequence[Scored]) -> Figures:
    """Give the smallest and the largest of the runs' means, and their standard deviation."""
    figures: Figures = {}
    for name in METRICS:
        means = [float(np.mean(run.by_user[name])) for run in runs]
        deviation = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
        figures[name] = {"min": min(means), "max": max(means), "sd": deviation}
    return figures
