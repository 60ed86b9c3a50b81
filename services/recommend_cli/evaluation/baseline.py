"""The baseline without any model: what most people took, but what the user has seen."""

from collections import Counter
from collections.abc import Sequence

from recommend_cli.datasets.movielens import Ratings
from recommend_cli.evaluation.metrics import CUTOFF
from recommend_cli.evaluation.scores import Prediction
from recommend_cli.evaluation.splits import Split


def count_popularity(ratings: Ratings, split: Split) -> Counter[str]:
    """Count each item's training interactions."""
    return Counter(str(item) for rows in split.train.values() for item in ratings.items[rows].tolist())


def popularity_predictions(
    ratings: Ratings, split: Split, popularity: Counter[str], *, one_by_one: bool
) -> Sequence[Prediction]:
    """Give each user the most popular items not seen; ties by the smaller item id.

    Args:
        ratings: All ratings.
        split: What is known and what comes.
        popularity: Training interactions by item.
        one_by_one: Predict each coming interaction after the ones before it are seen; otherwise all of them at once.
    """
    ranked = sorted(popularity, key=lambda item: (-popularity[item], int(item)))
    predictions = []
    for user, coming in split.test.items():
        seen = {str(item) for item in ratings.items[split.train[user]].tolist()}
        items = [str(item) for item in ratings.items[coming].tolist()]
        for step in [[item] for item in items] if one_by_one else [items]:
            unseen = (item for item in ranked if item not in seen)
            recommended = [item for item, _ in zip(unseen, range(CUTOFF), strict=False)]
            predictions.append(Prediction(user, recommended, frozenset(step)))
            seen.update(step)
    return predictions
