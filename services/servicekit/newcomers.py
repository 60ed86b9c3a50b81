"""Scores for items that are newer than the model, of which it is known only what they resemble."""

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats

IN_MODEL = "in_model"
"""The feature that is 1 for the items that a model was trained with and 0 for those that came after it."""

SPACING = 4
"""So many known items stand before each newcomer: it has the fifth place at best, the next one the tenth."""


def seat_newcomers(scores: Floats, resemblance: Floats, is_new: npt.NDArray[np.bool_]) -> Floats:
    """Let newcomers stand where the known items stand that resemble the history as much; give float32[N] scores.

    Nobody has touched a newcomer yet, so what it resembles is all that speaks for it, and a score learned from
    behaviour leaves it at the end. By rank matching it is given the score that a known item has whose place by
    resemblance is the same, within what SPACING leaves to newcomers. No score falls.

    Args:
        scores: float32[N], higher is better.
        resemblance: float32[N], how much each is like the history by its content; 0 where that is not known.
        is_new: bool[N].
    """
    new = np.flatnonzero(is_new & (resemblance > 0.0))
    alike = ~is_new & (resemblance > 0.0)
    if not len(new) or not alike.any():
        return scores
    new = new[np.argsort(-resemblance[new], kind="stable")]
    below = np.searchsorted(np.sort(resemblance[alike]), resemblance[new], side="right") - 1
    matched = np.sort(scores[alike])[np.maximum(below, 0)]
    known = np.sort(scores[~is_new])[::-1]
    seats = np.minimum(SPACING * np.arange(1, len(new) + 1), len(known)) - 1
    seated = scores.copy()
    seated[new] = np.maximum(scores[new], np.minimum(matched, known[seats]))
    return seated
