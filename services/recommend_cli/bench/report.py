"""The figures of a bench as tables for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from recommend_cli.bench.run import MOST

_COLUMNS = ("answered/s", "p50 ms", "p99 ms", "CPU ms each", "wrong", "degraded")


def report_tables(report: Mapping[str, Any]) -> RenderableType:
    """Lay the figures out, the answer to "how fast" last."""
    freshness, external = report["freshness_ms"], report["external_event_to_list_ms"]
    ingest = report["ingest_events_per_s"]
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
        f"From an outside producer's event to the changed list: median {external['p50']:.1f} ms, "
        f"p99 {external['p99']:.1f} ms",
        f"Events a second: {ingest['rest_bulk']:,.0f} over REST in bulk; an outside producer appends "
        f"{ingest['appended']:,.0f}, of which {ingest['applied']:,.0f} are applied",
        f"[bold]Personalised at {MOST} connections: {report['personalised'][MOST]['rps']:,.0f} requests/s, "
        f"{report['ratio_to_hello']:.2f} of a bare FastAPI[/]",
    )


def comparison_table(measured: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay the figures of several kinds of stores side by side."""
    table = Table("", box=SIMPLE_HEAD, title="By stores", title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    for kind in measured:
        table.add_column(kind, justify="right")

    def row(name: str, *path: str, digits: int = 1) -> None:
        cells = (reduce(lambda part, key: part.get(key, {}), path, figures) for figures in measured.values())
        table.add_row(name, *(f"{cell:,.{digits}f}" if isinstance(cell, float) else "" for cell in cells))

    closed = ("personalised", MOST)
    row(f"personalised requests/s, {MOST} connections", *closed, "rps", digits=0)
    row("their p50 ms", *closed, "p50_ms")
    row("their p99 ms", *closed, "p99_ms")
    for name in dict.fromkeys(name for each in measured.values() for name in each["personalised"][MOST]["cpu_ms"]):
        row(f"CPU ms a request, {name}", *closed, "cpu_ms", name, digits=2)
    for title, key in (("POST", "freshness_ms"), ("outside event", "external_event_to_list_ms")):
        row(f"{title} to changed list, median ms", key, "p50")
        row(f"{title} to changed list, p99 ms", key, "p99")
    row("events/s over REST in bulk", "ingest_events_per_s", "rest_bulk", digits=0)
    row("events/s through the log, applied", "ingest_events_per_s", "applied", digits=0)
    return table


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
