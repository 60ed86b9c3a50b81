"""Items that are newer than the model, among those that are similar to an item."""

from dataclasses import replace

import numpy as np

from servicekit.newcomers import IN_MODEL, seat_newcomers
from vector_search.domain.model import CONTENT
from vector_search.domain.retrieval import Candidates


def with_newcomers(found: Candidates) -> Candidates:
    """Let them stand where known items stand that resemble as much, see `servicekit.newcomers`."""
    names = found.version.feature_names
    if IN_MODEL not in names:
        return found
    is_new = found.features[names.index(IN_MODEL)] == 0.0
    if not is_new.any():
        return found
    scores = seat_newcomers(found.scores, found.features[names.index(CONTENT)], is_new)
    order = np.lexsort((found.keys, -scores))
    return replace(
        found,
        keys=found.keys[order],
        scores=scores[order],
        features=found.features[:, order],
        because=found.because[order],
    )
