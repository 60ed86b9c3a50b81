from dataclasses import replace

import numpy as np

from hot_path_api.domain.blend import NOTHING_RANKED, Blend, Term, rank
from hot_path_api.domain.candidates import NO_CANDIDATES, Candidates, SourceQuery
from hot_path_api.domain.evidence import NO_EVIDENCE, Shown, evidence_of

QUESTION = SourceQuery(
    tenant="t",
    history_keys=np.array([70, 80, 90], np.int64),
    history_weights=np.array([1.0, -2.0, 3.0], np.float32),
    history_ages_s=np.zeros(3, np.float32),
    exclude_keys=np.empty(0, np.int64),
    filter=(),
    limit=10,
)
NEWCOMER = replace(
    QUESTION,
    history_keys=np.empty(0, np.int64),
    history_weights=np.empty(0, np.float32),
    history_ages_s=np.empty(0, np.float32),
)
BLEND = Blend([Term("a", 1.0)])


def pool(shares: list[float], because: list[int], name: str = "a") -> Candidates:
    return Candidates(
        keys=np.arange(len(shares), dtype=np.int64),
        names=(name, "size"),
        features=np.array([shares, [7.0] * len(shares)], np.float32),
        because=np.array(because, np.int32),
        shares=frozenset({name}),
    )


def shown(pool: Candidates, question: SourceQuery, ranks: slice) -> Shown:
    return Shown(pool, rank(BLEND, pool), question, ranks)


def test_it_stands_in_the_order_of_the_list_and_names_who_speaks_for_each() -> None:
    (evidence,) = evidence_of([shown(pool([0.1234567, 0.9, 0.5, 0.7], [0, 2, 1, -1]), QUESTION, slice(None))])
    assert evidence.scores == [0.9, 0.7, 0.5, 0.123457]
    assert evidence.sources == ("a",)
    assert evidence.shares == [[0.9], [0.7], [0.5], [0.123457]]  # a feature that is no share of a source is not told
    assert evidence.causes == [90, None, None, 70]  # nobody gave to the second; what gave to the third was disliked


def test_many_lists_are_told_as_each_by_itself() -> None:
    lists = [
        shown(pool([0.1, 0.2, 0.3], [0, 2, -1]), QUESTION, slice(2)),
        shown(pool([0.5], [-1]), NEWCOMER, slice(5)),
        shown(pool([0.4, 0.6], [2, 0], name="b"), QUESTION, slice(5)),
        Shown(NO_CANDIDATES, NOTHING_RANKED, QUESTION, slice(5)),
        Shown(pool([0.1, 0.2, 0.3], [0, 2, 0]), rank(BLEND, pool([0.1, 0.2, 0.3], [0, 2, 0])), QUESTION, np.array([2])),
    ]
    together = evidence_of(lists)
    assert together == [evidence_of([each])[0] for each in lists]
    assert [each.causes for each in together] == [[None, 90], [None], [90, 70], (), [70]]


def test_some_of_it_is_taken_out_by_rank() -> None:
    (evidence,) = evidence_of([shown(pool([0.4, 0.3, 0.2, 0.1], [0, 0, 2, 2]), QUESTION, slice(3))])
    taken = evidence.at([2, 0])
    assert taken is not None
    assert (taken.scores, taken.causes) == ([0.2, 0.4], [90, 70])
    assert evidence.at([]) == NO_EVIDENCE
    assert evidence.at([1, 3]) is None
