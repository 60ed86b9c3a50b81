"""The blend: a weighted sum of transformed features, fitted in training and shipped with the model."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from hot_path_api.domain.candidates import CONTENT, Candidates, Places, share_rows
from servicekit.arrays import Floats, Keys
from servicekit.newcomers import IN_MODEL, seat_newcomers


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
    """Scores candidates by features; a feature that they do not have counts as 0.

    Args:
        terms: The summands.
        is_learned: The weights come from a model, which knows nothing of items newer than itself.
    """

    def __init__(self, terms: Iterable[Term], *, is_learned: bool = True) -> None:
        self.is_learned = is_learned
        self.terms = tuple(term for term in terms if term.weight)
        self.features = frozenset(term.feature for term in self.terms)
        self._plans: dict[tuple[str, ...], tuple[Floats, Places, Floats]] = {}

    @classmethod
    def of_weights(cls, weights: Mapping[str, float]) -> Self:
        """Make the blend that a caller asks for: plain shares, times the caller's weights."""
        return cls((Term(name, weight) for name, weight in weights.items()), is_learned=False)

    def without(self, features: frozenset[str]) -> "Blend":
        """Make the same blend with some features left out."""
        return Blend((term for term in self.terms if term.feature not in features), is_learned=self.is_learned)

    def score(self, names: tuple[str, ...], features: Floats) -> Floats:
        """Give float32[N], higher is better, for candidates with features float32[F, N] of these names."""
        linear, rooted, roots = self._plan(names)
        scores: Floats = linear @ features
        if len(rooted):
            signed = features.take(rooted, axis=0)
            magnitudes = np.abs(signed)
            np.sqrt(magnitudes, out=magnitudes)
            scores += roots @ np.copysign(magnitudes, signed, out=magnitudes)
        return scores

    def _plan(self, names: tuple[str, ...]) -> tuple[Floats, Places, Floats]:
        """Lay the weights out along the rows of features with these names; there are only a few such layouts.

        Returns:
            float32[F], what each row is multiplied by; intp[R], the rows of which the roots count too; float32[R], what
            these are multiplied by.
        """
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
            (rooted,) = roots.nonzero()
            plan = self._plans[names] = (linear, rooted, roots[rooted])
        return plan


@dataclass(slots=True)
class Ranked:
    """A pool's candidates as the blend sees them: best first, ties in the order of the pool.

    Args:
        keys: int64[N].
        scores: float32[N].
        places: intp[N], where they stand in the pool.
        speaking: For how many the sources speak: their shares add up to something positive.
    """

    keys: Keys
    scores: Floats
    places: Places
    speaking: int

    def with_first(self, count: int) -> "Ranked":
        """Put the candidates at the pool's first places before all others, each part in its order."""
        if len(self.places) <= count:
            return self
        order = (self.places >= count).argsort(kind="stable")
        return Ranked(self.keys[order], self.scores[order], self.places[order], self.speaking)


NOTHING_RANKED = Ranked(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.intp), 0)


def rank(blend: Blend, pool: Candidates) -> Ranked:
    """Score one pool and put it in order."""
    return rank_all([(blend, pool)])[0]


def rank_all(wanted: Sequence[tuple[Blend, Candidates]]) -> list[Ranked]:
    """Score many pools and put them in order: those of one blend, layout and length in one pass."""
    alike: defaultdict[tuple[Blend, tuple[str, ...], int], list[int]] = defaultdict(list)
    for place, (blend, pool) in enumerate(wanted):
        alike[blend, pool.names, len(pool.keys)].append(place)
    ranked = [NOTHING_RANKED] * len(wanted)
    for (blend, names, length), places in alike.items():
        if not length:
            continue
        pools = [wanted[place][1] for place in places]
        features = np.concatenate([pool.features for pool in pools], axis=1)
        scores = blend.score(names, features).reshape(len(pools), length)
        if blend.is_learned and IN_MODEL in names and CONTENT in names:
            _seat_newcomers(scores, features[names.index(CONTENT)], features[names.index(IN_MODEL)] == 0.0)
        evidence = share_rows(names, pools[0].shares) @ features
        speaking = np.count_nonzero(evidence.reshape(len(pools), length) > 0.0, axis=1)
        for place, own in zip(places, in_order(pools, scores, speaking.tolist()), strict=True):
            ranked[place] = own
    return ranked


def _seat_newcomers(scores: Floats, resemblance: Floats, is_new: npt.NDArray[np.bool_]) -> None:
    """Let newcomers have their seats in float32[B, N] scores; most pools have none."""
    if is_new.any():
        of_each, new = resemblance.reshape(scores.shape), is_new.reshape(scores.shape)
        for row in np.flatnonzero(new.any(axis=1)).tolist():
            scores[row] = seat_newcomers(scores[row], of_each[row], new[row])


def in_order(pools: Sequence[Candidates], scores: Floats, speaking: Sequence[int]) -> Iterator[Ranked]:
    """Put pools of one length in the order of float32[B, N] scores."""
    places = best_first(scores)
    keys = np.take_along_axis(np.stack([pool.keys for pool in pools]), places, axis=1)
    return map(Ranked, keys, np.take_along_axis(scores, places, axis=1), places, speaking)


def best_first(scores: Floats) -> Places:
    """Give the order of each row of float32[B, N] as intp[B, N], largest first, ties in the order given.

    Numbers that carry their place in the lower half are distinct, so the fastest sort is also a stable one.
    """
    bits = (scores + np.float32(0.0)).view(np.int32)  # there is no negative zero after that
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # as integers in the order of the numbers
    marked = (ordered << 32) | np.arange(scores.shape[1])[::-1]
    marked.sort(axis=1)
    places: Places = scores.shape[1] - 1 - (marked[:, ::-1] & 0xFFFFFFFF)
    return places
