"""`evaluate`: the quality of the served lists by a published protocol."""

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated

import typer

from recommend_cli.console import OUT
from recommend_cli.datasets.movielens import TERMS
from recommend_cli.errors import CommandError
from recommend_cli.evaluation.protocols import PROTOCOLS, Protocol, ProtocolName
from recommend_cli.evaluation.report import make_report, report_table
from recommend_cli.evaluation.run import SeedRun, run_protocol
from recommend_cli.options import DEFAULT_CACHE_DIR, CacheDir, SettingsFile, StoreChoice
from recommend_cli.stack.signals import run_until_stopped
from recommend_cli.stack.stores import StoreKind

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write the report there as JSON.", dir_okay=False)]


def evaluate(
    protocol: Annotated[
        ProtocolName,
        typer.Option("--protocol", "-P", metavar="NAME", help="What is measured, and how: one of the above."),
    ],
    seeds: Annotated[
        str, typer.Option("--seeds", help='As "1-5" or "1,3". Each is a stack of its own. Default: the protocol\'s.')
    ] = "",
    out: Out = None,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
    cache_dir: CacheDir = DEFAULT_CACHE_DIR,
) -> None:
    """Measure the served lists by a published protocol on MovieLens-100K.

    Starts an isolated stack in a temporary folder, loads only the training part over REST, trains, asks the gateway
    for every user's list and scores it; the same for popularity alone and for each source alone.

    * ml100k-75-25: a random quarter of each user's ratings is held out; seeds 1 to 5.

    * ml100k-last-out: each user's last rating is held out, ties by the order of the file.

    * ml100k-replay: each user's last five, one by one: ask, score on the next one, post it, go on.
    """
    chosen = PROTOCOLS[protocol]
    OUT.print(TERMS, soft_wrap=True)
    running = run_protocol(
        chosen, cache=cache_dir, seeds=_read_seeds(seeds, chosen), stores=stores, settings_file=settings
    )
    run_until_stopped(_evaluate(chosen, running, out))


async def _evaluate(protocol: Protocol, running: Awaitable[list[SeedRun]], out: Path | None) -> None:
    runs = await running
    report = make_report(protocol, runs)
    OUT.print(report_table(protocol, report))
    if len(runs) > 1:
        for name in protocol.headline:
            spread = report["spread_over_seeds"][name]
            OUT.print(f"{name} over seeds: {spread['min']:.4f} to {spread['max']:.4f}, deviation {spread['sd']:.4f}")
    if protocol.replayed:
        times = report["post_to_knowing_list_ms"]
        OUT.print(f"From POST to the list that knows it: median {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms")
    if report["answers"]["degraded"]:
        OUT.print(f"[yellow]{report['answers']['degraded']} of {report['answers']['lists']} lists were degraded[/]")
    if out is not None:
        await asyncio.to_thread(write_report, out, report)


def write_report(path: Path, report: dict[str, object]) -> None:
    """Write a report as JSON, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    OUT.print(f"Report: {path}")


def _read_seeds(text: str, protocol: Protocol) -> list[int]:
    """Read "1-5" or "1,3".

    Raises:
        CommandError: It is neither.
    """
    if not text:
        return list(protocol.seeds)
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise CommandError(f"--seeds takes numbers as 1-5 or 1,3, not {text!r}") from error
    return list(dict.fromkeys(seeds))
