"""The figures of a bench as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table

from recommend_cli.bench.run import MOST


def report_tables(report: Mapping[str, Any]) -> RenderableType:
    """Lay the figures out, the answer to "how fast" last."""
    freshness = report["freshness_ms"]
    recalls = ", ".join(f"{each['selectivity']:.0%}: {each['recall']:.3f}" for each in report["recall_at_10"])
    return Group(
        _closed_table(report),
        _open_table(report),
        f"Recall@10 of the dense search by the share of items that pass the filter: {recalls}",
        f"Memory of all services: {sum(report['memory_bytes'].values()) / 1e6:,.0f} MB",
        f"From POST to the changed list: median {freshness['p50']:.1f} ms, p99 {freshness['p99']:.1f} ms",
        f"[bold]Personalised at {MOST} connections: {report['personalised'][MOST]['rps']:,.0f} requests/s, "
        f"{report['ratio_to_hello']:.2f} of a bare FastAPI[/]",
    )


def _closed_table(report: Mapping[str, Any]) -> Table:
    table = Table("closed loop", box=SIMPLE_HEAD, title="Each connection asks again when it has its answer")
    for heading in ("connections", "requests/s", "p50 ms", "p99 ms", "CPU ms a request", "wrong answers"):
        table.add_column(heading, justify="right")
    for name in ("hello", "personalised"):
        for connections, figures in report[name].items():
            cpu_ms = figures["cpu_ms"]
            total = cpu_ms if name == "hello" else cpu_ms["total"]
            wrong = "" if name == "hello" else _wrong(figures)
            table.add_row(name, connections, *_speed_cells(figures), f"{total:.2f}", wrong)
    for process, cpu_ms in report["personalised"][MOST]["cpu_ms"].items():
        if process != "total":
            table.add_row(f"[dim]  {process}[/]", "", "", "", "", f"[dim]{cpu_ms:.2f}[/]")
    return table


def _open_table(report: Mapping[str, Any]) -> Table:
    table = Table("open loop", box=SIMPLE_HEAD, title="Requests fall due at random moments, answered or not")
    for heading in ("offered/s", "answered/s", "p50 ms", "p99 ms", "CPU ms a request", "wrong answers"):
        table.add_column(heading, justify="right")
    for step in report["open_loop"]:
        table.add_row(
            "personalised",
            f"{step['offered_rps']:,.0f}",
            *_speed_cells(step),
            f"{step['cpu_ms']['total']:.2f}",
            _wrong(step),
        )
    return table


def _speed_cells(figures: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{figures['rps']:,.0f}", f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}"


def _wrong(figures: Mapping[str, Any]) -> str:
    because = ", ".join(f"{count} {fault}" for fault, count in figures["wrong_because"].items())
    degraded = f"{figures['degraded']} degraded" if figures["degraded"] else ""
    return "; ".join(filter(None, [because, degraded])) or "0"
