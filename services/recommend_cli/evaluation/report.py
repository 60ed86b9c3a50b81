"""The figures of a protocol as JSON for programs and as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from recommend_cli.environment import describe_environment
from recommend_cli.evaluation.asking import SERVED
from recommend_cli.evaluation.protocols import Protocol
from recommend_cli.evaluation.run import POPULARITY, SeedRun
from recommend_cli.evaluation.scores import COVERAGE, MEAN_POPULARITY, Figures, spread, summarize


def make_report(protocol: Protocol, runs: Sequence[SeedRun]) -> dict[str, Any]:
    """Write the report: `metrics` of the served lists, `baselines` of popularity and of each source alone."""
    figures = {name: summarize([run.scored[name] for run in runs]) for name in runs[0].scored}
    served = figures.pop(SERVED)
    report: dict[str, Any] = {
        "protocol": protocol.name.value,
        "about": protocol.about,
        "metrics": served,
        "baselines": {POPULARITY: figures.pop(POPULARITY), **figures},
        "seeds": {str(run.seed): summarize([run.scored[SERVED]]) for run in runs},
        "spread_over_seeds": spread([run.scored[SERVED] for run in runs]),
        "answers": {
            "lists": sum(len(predictions) for run in runs for predictions in run.asked.predictions.values()),
            "degraded": sum(run.asked.degraded for run in runs),
        },
        "training": {str(run.seed): run.training for run in runs},
        "environment": describe_environment(),
    }
    if protocol.replayed:
        times = [time for run in runs for time in run.asked.knowing_ms]
        report["post_to_knowing_list_ms"] = {
            "p50": float(np.percentile(times, 50)),
            "p99": float(np.percentile(times, 99)),
            "unchanged_lists": sum(run.asked.unchanged for run in runs),
        }
    return report


def report_table(protocol: Protocol, report: Mapping[str, Any]) -> Table:
    """Lay the figures out: a row for each system, the served lists first."""
    title = f"{protocol.name}: {protocol.about}"
    table = Table("", box=SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    columns = (*protocol.headline, COVERAGE, MEAN_POPULARITY)
    for name in columns:
        table.add_column(name.replace("mean_", "mean "), justify="right")
    table.add_row("[bold]served[/]", *_cells(report["metrics"], columns), style="bold")
    for name, figures in report["baselines"].items():
        table.add_row(name, *_cells(figures, columns))
    return table


def _cells(figures: Figures, columns: Sequence[str]) -> list[str]:
    cells = []
    for name in columns:
        mean, error = figures[name]["mean"], figures[name]["se"]
        if name == MEAN_POPULARITY:
            cells.append(f"{mean:.0f}")
        elif name == COVERAGE:
            cells.append(f"{mean:.3f}")
        else:
            cells.append(f"{_fraction(mean)}±{_fraction(error)}")
    return cells


def _fraction(value: float) -> str:
    """Write four places, and no nought in front, so that a row fits a narrow terminal."""
    return f"{value:.4f}".removeprefix("0")
