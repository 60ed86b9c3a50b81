"""What a list tells of its items besides themselves: the score, what each source gave, which history item gave most."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hot_path_api.domain.blend import Ranked
from hot_path_api.domain.candidates import Candidates, Places, SourceQuery, share_places
from servicekit.arrays import Ints

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of some candidates, one after the other.

    Args:
        sources: The names of those who gave shares.
        scores: What the blend gave.
        shares: What each source gave, a row for each candidate.
        causes: The key of the history item that gave most; None where none did, or one that was disliked.
    """

    sources: Sequence[str]
    scores: Sequence[float]
    shares: Sequence[Sequence[float]]
    causes: Sequence[int | None]

    def at(self, ranks: Sequence[int]) -> "Evidence | None":
        """Give that of the candidates at these ranks, from 0; None when they are beyond it."""
        if not ranks:
            return NO_EVIDENCE
        if max(ranks) >= len(self.scores):
            return None
        scores, shares, causes = self.scores, self.shares, self.causes
        return Evidence(
            self.sources,
            [scores[rank] for rank in ranks],
            [shares[rank] for rank in ranks],
            [causes[rank] for rank in ranks],
        )


NO_EVIDENCE = Evidence((), (), (), ())


@dataclass(slots=True)
class Shown:
    """Which candidates of a list are to be told of: those at some ranks of a pool that was made for a question."""

    pool: Candidates
    ranked: Ranked
    question: SourceQuery
    ranks: Places | slice


def evidence_of(lists: Sequence[Shown]) -> list[Evidence]:
    """Lay out what is known of the candidates of each list; those of pools of one layout in one pass."""
    found = [NO_EVIDENCE] * len(lists)
    alike: defaultdict[tuple[tuple[str, ...], frozenset[str]], list[int]] = defaultdict(list)
    for at, each in enumerate(lists):
        if len(each.pool.keys):
            alike[each.pool.names, each.pool.shares].append(at)
    for layout, members in alike.items():
        sources, rows = share_places(*layout)
        shown = [lists[at] for at in members]
        places = [each.ranked.places[each.ranks] for each in shown]
        features = [each.pool.features.take(own, axis=1) for each, own in zip(shown, places, strict=True)]
        because = [each.pool.because.take(own) for each, own in zip(shown, places, strict=True)]
        shares = _rounded(np.concatenate(features, axis=1).take(rows, axis=0).T)
        scores = _rounded(np.concatenate([each.ranked.scores[each.ranks] for each in shown]))
        causes = _causes(because, [each.question for each in shown])
        end = 0
        for at, own in zip(members, places, strict=True):
            begin, end = end, end + len(own)
            found[at] = Evidence(sources, scores[begin:end], shares[begin:end], causes[begin:end])
    return found


def _rounded(values: Any) -> list[Any]:
    """Give float32 values as numbers that are short to write."""
    rounded: list[Any] = values.astype(np.float64).round(_DECIMALS).tolist()
    return rounded


def _causes(because: Sequence[Ints], questions: Sequence[SourceQuery]) -> list[int | None]:
    """Give the keys at places of histories that speak for something."""
    places = np.concatenate(because)
    lengths = [len(question.history_keys) for question in questions]
    if not any(lengths):
        return [None] * len(places)
    starts = np.cumsum([0, *lengths[:-1]])
    flat = places + starts.repeat([len(own) for own in because])
    weights = np.concatenate([question.history_weights for question in questions]).take(flat, mode="clip")
    keys = np.concatenate([question.history_keys for question in questions]).take(flat, mode="clip")
    speaks = (places >= 0) & (weights > 0.0)
    return [key if is_cause else None for key, is_cause in zip(keys.tolist(), speaks.tolist(), strict=True)]
