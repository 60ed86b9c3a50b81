import io

import pytest
from rich.console import Console

from recommend_cli import console as console_module
from recommend_cli.console import share_progress


def test_a_share_is_whole_in_80_columns_however_long_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(console_module, "OUT", console)
    progress = share_progress()
    progress.add_task("Training: settings: cooccurrence 10 of 12", total=2, completed=1)
    progress.add_task("Training: " + "x" * 200, total=2, completed=1)
    with console.capture() as captured:
        console.print(progress.get_renderable())
    first, second = captured.get().splitlines()
    assert "cooccurrence 10 of 12" in first
    assert "x…" in second
    for line in (first, second):
        assert "━━━" in line
        assert " 50% " in line
        assert line.rstrip().endswith("-:--:--") or line.rstrip().endswith("0:00:00")
