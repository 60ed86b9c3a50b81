"""The published protocols: how the data is divided, how the model is trained, what is asked and in which order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from recommend_cli.clients.training import HoldOut
from recommend_cli.datasets.movielens import Ratings
from recommend_cli.evaluation.splits import Split, last_interactions, random_quarter

REPLAYED: Final = 5


class ProtocolName(StrEnum):
    """The names on the command line."""

    ML100K_75_25 = "ml100k-75-25"
    ML100K_LAST_OUT = "ml100k-last-out"
    ML100K_REPLAY = "ml100k-replay"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to measure.

    Args:
        split: Divides the ratings, given a seed.
        hold_out: How training holds out within the training part.
        seeds: What is run unless asked otherwise.
        headline: The metrics that the literature reports.
        replayed: Whether each prediction is followed by what the user really did.
        about: In a sentence.
    """

    name: ProtocolName
    split: Callable[[Ratings, int], Split]
    hold_out: HoldOut
    seeds: Sequence[int]
    headline: Sequence[str]
    replayed: bool
    about: str


PROTOCOLS: Final = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name=ProtocolName.ML100K_75_25,
            split=lambda ratings, seed: random_quarter(ratings, seed=seed),
            hold_out=HoldOut.RANDOM,
            seeds=(1, 2, 3, 4, 5),
            headline=("NDCG@10", "Recall@10", "MAP@10"),
            replayed=False,
            about="per user a random quarter is held out; every rating is relevant; all unseen items are ranked",
        ),
        Protocol(
            name=ProtocolName.ML100K_LAST_OUT,
            split=lambda ratings, _seed: last_interactions(ratings, count=1),
            hold_out=HoldOut.TIME,
            seeds=(1,),
            headline=("HR@10", "NDCG@10"),
            replayed=False,
            about="per user the last interaction is held out, ties by file order; all unseen items are ranked",
        ),
        Protocol(
            name=ProtocolName.ML100K_REPLAY,
            split=lambda ratings, _seed: last_interactions(ratings, count=REPLAYED),
            hold_out=HoldOut.TIME,
            seeds=(1,),
            headline=("HR@10", "NDCG@10"),
            replayed=True,
            about="each user's last five, one by one: the list is asked, scored on the next, which is then posted",
        ),
    )
}
