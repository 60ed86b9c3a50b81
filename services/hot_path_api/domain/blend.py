"""The blend: a weighted sum of transformed features, fitted in training and shipped with the model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np

from hot_path_api.domain.candidates import Candidates
from servicekit.arrays import Floats

_NO_SCORES: Floats = np.empty(0, np.float32)


class Transform(StrEnum):
    """What happens to a feature before it is weighed."""

    LINEAR = "linear"
    SQRT = "sqrt"  # of the magnitude, keeping the sign: a second strong share says less than the first


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of the blend."""

    feature: str
    weight: float
    transform: Transform = Transform.LINEAR


class Blend:
    """Scores candidates by features; a feature that they do not have counts as 0."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self.terms = tuple(term for term in terms if term.weight)
        self.features = frozenset(term.feature for term in self.terms)
        self._plans: dict[tuple[str, ...], tuple[Floats, Floats | None]] = {}

    @classmethod
    def of_weights(cls, weights: Mapping[str, float]) -> Self:
        """Make the blend that a caller asks for: plain shares, times the caller's weights."""
        return cls(Term(name, weight) for name, weight in weights.items())

    def without(self, features: frozenset[str]) -> "Blend":
        """Make the same blend with some features left out."""
        return Blend(term for term in self.terms if term.feature not in features)

    def score(self, names: tuple[str, ...], features: Floats) -> Floats:
        """Give float32[N], higher is better, for candidates with features float32[F, N] of these names."""
        linear, roots = self._plan(names)
        scores: Floats = linear @ features
        if roots is not None:
            scores += roots @ np.copysign(np.sqrt(np.abs(features)), features)
        return scores

    def _plan(self, names: tuple[str, ...]) -> tuple[Floats, Floats | None]:
        """Lay the weights out along the rows of features with these names; there are only a few such layouts."""
        plan = self._plans.get(names)
        if plan is None:
            linear, roots = (
                np.array(
                    [
                        sum(term.weight for term in self.terms if term.feature == name and term.transform is transform)
                        for name in names
                    ],
                    np.float32,
                )
                for transform in (Transform.LINEAR, Transform.SQRT)
            )
            plan = self._plans[names] = (linear, roots if roots.any() else None)
        return plan


def score_all(wanted: Sequence[tuple[Blend, Candidates]]) -> list[Floats]:
    """Score many pools: those of one blend and one layout in one pass."""
    alike: defaultdict[tuple[Blend, tuple[str, ...]], list[int]] = defaultdict(list)
    for place, (blend, pool) in enumerate(wanted):
        alike[blend, pool.names].append(place)
    scores: list[Floats] = [_NO_SCORES] * len(wanted)
    for (blend, names), places in alike.items():
        pools = [wanted[place][1] for place in places]
        together = blend.score(names, np.concatenate([pool.features for pool in pools], axis=1))
        begin = 0
        for place, pool in zip(places, pools, strict=True):
            scores[place] = together[begin : begin + len(pool.keys)]
            begin += len(pool.keys)
    return scores
