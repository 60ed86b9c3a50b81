"""Runs a protocol from nothing: an isolated stack, the training part through the public door, training, the lists."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recommend_cli.clients.gateway import Gateway
from recommend_cli.clients.services import connected
from recommend_cli.clients.vectors import VectorIndex
from recommend_cli.console import OUT, counting_progress
from recommend_cli.datasets.files import Record
from recommend_cli.datasets.ml100k import film_records, interaction_records
from recommend_cli.datasets.movielens import Ratings, read_ratings
from recommend_cli.errors import CommandError
from recommend_cli.evaluation.asking import Asked, Examined, Examiner
from recommend_cli.evaluation.baseline import count_popularity, popularity_predictions
from recommend_cli.evaluation.protocols import Protocol
from recommend_cli.evaluation.scores import Scored, score
from recommend_cli.evaluation.splits import Split
from recommend_cli.loading import LoadOutcome
from recommend_cli.populating import (
    load_interactions,
    load_items,
    numbered,
    train_model,
    wait_until_applied,
    wait_until_embedded,
)
from recommend_cli.stack.folder import RunFolder
from recommend_cli.stack.running import stack_up
from recommend_cli.stack.stores import StoreKind, open_stores

POPULARITY: Final = "popularity"
_CONNECTIONS: Final = 16
_JUST_PAST_MS: Final = 1_000
_SETTINGS: Final = {
    # What is measured here is which items are in the lists, not how fast they come: nothing shall be left out as late.
    "TIME_BUDGET_MS": "2000",
    # Nobody trains on the test part while it is replayed.
    "TRAIN_EVERY_MINUTES": "0",
    "TRAIN_EVERY_INTERACTIONS": "0",
}


@dataclass(frozen=True, slots=True)
class SeedRun:
    """What one seed gave: the figures of each system by name, and what was noted on the way."""

    seed: int
    scored: dict[str, Scored]
    asked: Asked
    training: dict[str, Any]


async def run_protocol(
    protocol: Protocol,
    *,
    cache: Path,
    seeds: Sequence[int],
    stores: StoreKind = StoreKind.EMBEDDED,
    settings_file: Path | None = None,
) -> list[SeedRun]:
    """Run a protocol for each seed, each on a stack of its own.

    Raises:
        CommandError: The data is not there, or something does not work as it must for the figures to mean anything.
    """
    ratings, films = read_ratings(cache), film_records(cache)
    runs = []
    for seed in seeds:
        OUT.rule(f"{protocol.name}, seed {seed}", align="left")
        runs.append(await _run_seed(protocol, ratings, films, seed, (stores, settings_file)))
    return runs


async def _run_seed(
    protocol: Protocol, ratings: Ratings, films: list[Record], seed: int, stores: tuple[StoreKind, Path | None]
) -> SeedRun:
    split = protocol.split(ratings, seed)
    popularity = count_popularity(ratings, split)
    # The last interaction of all, which a replay posts, has just happened; the others as long before it as they did.
    shift_ms = time.time_ns() // 1_000_000 - _JUST_PAST_MS - int(ratings.times_s.max()) * 1000
    with tempfile.TemporaryDirectory(prefix="recommend-evaluate-") as folder:
        data_dir = Path(folder)
        async with (
            stack_up(
                data_dir, port=0, auth=True, console=OUT, stores=open_stores(data_dir, *stores), settings=_SETTINGS
            ) as supervisor,
            Gateway(supervisor.state.url, RunFolder(data_dir).api_key(), connections=_CONNECTIONS) as gateway,
        ):
            state = supervisor.state
            _require_all(await load_items(gateway, numbered(films), total=len(films)))
            rows = split.train.values()
            _require_all(
                await load_interactions(
                    gateway,
                    interaction_records(ratings, rows, as_views=True, shift_ms=shift_ms),
                    total=sum(map(len, rows)),
                )
            )
            await wait_until_embedded(state, len(films))
            await wait_until_applied(state)
            started = time.monotonic()
            training = await train_model(state, gateway, hold_out=protocol.hold_out, seed=seed)
            training_s = time.monotonic() - started
            if not training.activated:
                raise CommandError(f"The model was not activated: {training.message}")
            async with connected(state, "vector_search") as channel:
                sources = (await VectorIndex(channel, state.tenant).describe()).sources
            asked = await _ask(protocol, gateway, sources, _examined(ratings, split, shift_ms))
    systems = dict(asked.predictions)
    systems[POPULARITY] = list(popularity_predictions(ratings, split, popularity, one_by_one=protocol.replayed))
    return SeedRun(
        seed=seed,
        scored={
            name: score(predictions, popularity=popularity, catalogue_size=len(films))
            for name, predictions in systems.items()
        },
        asked=asked,
        training={"version": training.version, "seconds": round(training_s, 1), "report": training.report},
    )


async def _ask(protocol: Protocol, gateway: Gateway, sources: Sequence[str], users: Sequence[Examined]) -> Asked:
    with counting_progress() as progress:
        task = progress.add_task("Users", total=len(users))
        examiner = Examiner(gateway, sources, on_user=lambda: progress.advance(task))
        return await (examiner.replay(users) if protocol.replayed else examiner.predict_all_at_once(users))


def _examined(ratings: Ratings, split: Split, shift_ms: int) -> list[Examined]:
    """Give the users in the order in which their first coming interaction happened."""
    order = sorted(split.test, key=lambda user: (int(ratings.times_s[split.test[user][0]]), user))
    return [
        Examined(
            user,
            [
                line.record
                for line in interaction_records(ratings, [split.test[user]], as_views=True, shift_ms=shift_ms)
            ],
        )
        for user in order
    ]


def _require_all(outcome: LoadOutcome) -> None:
    """Refuse to go on with a part of the data."""
    if outcome.bad:
        line, reason = next(iter(outcome.bad.items()))
        raise CommandError(f"{len(outcome.bad)} records were refused, the first at line {line}: {reason}")
