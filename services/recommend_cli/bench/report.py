"""The figures of a bench as tables for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from recommend_cli.bench.run import MOST

_COLUMNS = ("answered/s", "p50 ms", "p99 ms", "CPU ms each", "wrong", "degraded")


def report_tables(report: Mapping[str, Any]) -> RenderableType:
    """Lay the figures out, the answer to "how fast" last."""
    freshness = report["freshness_ms"]
    cpu_ms = report["personalised"][MOST]["cpu_ms"]
    recalls = ", ".join(f"{each['selectivity']:.0%}: {each['recall']:.3f}" for each in report["recall_at_10"])
    return Group(
        _closed_table(report),
        _open_table(report),
        *_faults([*report["personalised"].values(), *report["open_loop"]]),
        f"CPU ms a request at {MOST} connections: "
        + ", ".join(f"{process} {value:.2f}" for process, value in cpu_ms.items()),
        f"Recall@10 of the dense search by the share of items that pass the filter: {recalls}",
        f"Memory of all services: {sum(report['memory_bytes'].values()) / 1e6:,.0f} MB",
        f"From POST to the changed list: median {freshness['p50']:.1f} ms, p99 {freshness['p99']:.1f} ms",
        f"[bold]Personalised at {MOST} connections: {report['personalised'][MOST]['rps']:,.0f} requests/s, "
        f"{report['ratio_to_hello']:.2f} of a bare FastAPI[/]",
    )


def _closed_table(report: Mapping[str, Any]) -> Table:
    table = _table("connections", title="Closed loop: each connection asks again when it has its answer")
    for connections, figures in report["hello"].items():
        table.add_row(f"{connections}, bare FastAPI", *_speed_cells(figures), f"{figures['cpu_ms']:.2f}")
    for connections, figures in report["personalised"].items():
        table.add_row(f"{connections}, personalised", *_cells(figures))
    return table


def _open_table(report: Mapping[str, Any]) -> Table:
    table = _table("asked/s", title="Open loop: requests fall due at random moments, answered or not")
    for step in report["open_loop"]:
        table.add_row(f"{step['offered_rps']:,.0f}", *_cells(step))
    return table


def _table(first: str, *, title: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right")
    return table


def _cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    cpu_ms = f"{figures['cpu_ms']['total']:.2f}"
    return *_speed_cells(figures), cpu_ms, f"{figures['wrong_answers']:,}", f"{figures['degraded']:,}"


def _speed_cells(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{figures['rps']:,.0f}", f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}"


def _faults(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what was wrong with the wrong answers, if there were any."""
    faults: Counter[str] = Counter()
    for figures in measured:
        faults.update(figures["wrong_because"])
    return [f"[yellow]Wrong: {', '.join(f'{count:,} {fault}' for fault, count in faults.items())}[/]"] if faults else []
