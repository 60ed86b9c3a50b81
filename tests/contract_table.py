"""Counts, for each port and adapter, the contract tests that passed, and tells it at the end of a run."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

Cell = tuple[str, str]


class ContractTable:
    """A pytest plugin: a test counts when its class says its `port` and its `adapter`.

    Args:
        file: Where the table is written as JSON: port, adapter, outcome, number.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._cells: dict[str, Cell] = {}
        self._outcomes: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the contract tests, before the marks are used to choose."""
        for item in items:
            kind: Any = getattr(item, "cls", None)
            port, adapter = getattr(kind, "port", None), getattr(kind, "adapter", None)
            if isinstance(port, str) and isinstance(adapter, str):
                self._cells[item.nodeid] = (port, adapter)
                item.add_marker("contract")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self._cells or (report.passed and report.when != "call"):
            return
        outcome = "xfailed" if report.skipped and hasattr(report, "wasxfail") else str(report.outcome)
        if self._outcomes.get(report.nodeid) != "failed":  # a teardown that went well mends nothing
            self._outcomes[report.nodeid] = outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        table = self._table()
        if not table:
            return
        terminalreporter.section("contract tests by port and adapter")
        ports = max(map(len, table))
        adapters = max(len(adapter) for row in table.values() for adapter in row)
        for port, row in table.items():
            for adapter, counts in row.items():
                told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items())
                terminalreporter.write_line(f"{port:{ports}}  {adapter:{adapters}}  {told}")
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps(table, indent=2) + "\n")
            terminalreporter.write_line(f"written to {self._file}")

    def _table(self) -> dict[str, dict[str, Counter[str]]]:
        table: defaultdict[str, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for nodeid, outcome in self._outcomes.items():
            port, adapter = self._cells[nodeid]
            table[port][adapter][outcome] += 1
        return {port: dict(sorted(row.items())) for port, row in sorted(table.items())}
