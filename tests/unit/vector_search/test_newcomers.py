from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from vector_search.domain.newcomers import with_newcomers
from vector_search.domain.retrieval import Candidates


def found(names: tuple[str, ...]) -> Candidates:
    rows = {
        "cooccurrence": [9.0, 8.0, 7.0, 6.0, 5.0, 0.0],
        "content": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "in_model": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    }
    return Candidates(
        keys=np.arange(6),
        scores=np.array([9.1, 8.2, 7.3, 6.4, 5.5, 0.6], np.float32),
        features=np.array([rows[name] for name in names], np.float32),
        because=np.arange(6, dtype=np.int32),
        vector=np.empty(0, np.float32),
        known=1,
        version=cast("Any", SimpleNamespace(feature_names=names)),
    )


def test_a_newcomer_rises_with_all_that_belongs_to_it() -> None:
    seated = with_newcomers(found(("cooccurrence", "content", "in_model")))
    assert seated.keys.tolist() == [0, 1, 2, 3, 5, 4]
    assert seated.because.tolist() == seated.keys.tolist()
    assert seated.scores.tolist() == pytest.approx([9.1, 8.2, 7.3, 6.4, 6.4, 5.5])
    assert seated.features[1].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.6, 0.5])


def test_without_a_model_nobody_is_new() -> None:
    before = found(("cooccurrence", "content"))
    assert with_newcomers(before) is before
