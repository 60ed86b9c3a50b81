import os
import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from recommend_cli import __main__ as main_module
from recommend_cli.app import app
from recommend_cli.clients.gateway import Recommendation, RecommendedList
from recommend_cli.clients.training import HoldOut, Model, Trainer, Training
from recommend_cli.commands.data import _show
from recommend_cli.commands.models import _hint_of, hold_out_table, models_listing
from recommend_cli.display import about, fitting_table, list_table, why
from recommend_cli.errors import CommandError
from recommend_cli.evaluation.protocols import ProtocolName
from recommend_cli.loading import LoadOutcome
from recommend_cli.stack.folder import RunFolder, ServiceState, StackState, how_to_stop
from recommend_cli.stack.leftovers import created_at
from recommend_cli.stack.stores import DEFAULT_DATA_DIR
from servicekit.errors import FailedPreconditionError
from servicekit.rpc.client import RpcChannel

_COMMANDS = (
    ["up"],
    ["down"],
    ["status"],
    ["demo"],
    ["migrate"],
    ["dlq", "list"],
    ["dlq", "show"],
    ["dlq", "retry"],
    ["load"],
    ["load", "ml-100k"],
    ["load", "items"],
    ["load", "interactions"],
    ["train"],
    ["models"],
    ["activate"],
    ["rollback"],
    ["rebuild", "vectors"],
    ["rebuild", "graph"],
    ["for-user"],
    ["similar"],
    ["evaluate"],
    ["bench"],
)


def _text(renderable: object, width: int = 160) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115 - closed with it
    with console.file:
        console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_help_breaks_lines_only_where_the_terminal_ends(command: list[str]) -> None:
    lines = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"}).output.splitlines()
    prose = lines[: next(number for number, line in enumerate(lines) if line.startswith("╭"))]
    for line, following in pairwise(prose):
        if line.strip() and following.strip() and "Usage:" not in line:
            assert len(f"{line.rstrip()} {following.split()[0]}") > 79, line


def test_help_names_the_protocols_whole() -> None:
    output = CliRunner().invoke(app, ["evaluate", "--help"], env={"COLUMNS": "80"}).output
    assert all(f" {name.value}:" in output for name in ProtocolName)


def test_without_a_stack_commands_say_how_to_start_one(tmp_path: Path) -> None:
    for command in (["models"], ["rollback"], ["train"], ["rebuild", "graph"], ["for-user", "1"], ["similar", "1"]):
        result = CliRunner().invoke(app, [*command, "--data-dir", str(tmp_path / "none")])
        assert isinstance(result.exception, CommandError), command
        assert f"recommend up --data-dir {tmp_path / 'none'}" in result.exception.hint


def test_status_and_down_of_nothing(tmp_path: Path) -> None:
    data_dir = ["--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, ["status", *data_dir])
    assert result.exit_code == 3
    assert f"recommend up --data-dir {tmp_path}" in result.output
    result = CliRunner().invoke(app, ["down", *data_dir])
    assert result.exit_code == 0
    assert "No stack runs" in result.output


def test_a_second_stack_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        for detach in ([], ["--detach"]):
            result = CliRunner().invoke(app, ["up", "--data-dir", str(tmp_path), *detach])
            assert isinstance(result.exception, CommandError)
            assert "already runs" in result.exception.message


def test_a_taken_port_is_told_the_same_way_in_the_background(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = []
        for detach in ([], ["--detach"]):
            result = CliRunner().invoke(app, ["up", "--data-dir", str(tmp_path), "--port", str(port), *detach])
            assert isinstance(result.exception, CommandError)
            said.append((result.exception.message, result.exception.hint))
    assert said[0] == said[1]
    assert said[0][0] == f"Port {port} is taken"


def test_hints_name_the_data_folder_unless_it_is_the_default(tmp_path: Path) -> None:
    assert how_to_stop(DEFAULT_DATA_DIR) == "`recommend down` stops it"
    assert how_to_stop(tmp_path / "my shop") == f"`recommend down --data-dir '{tmp_path}/my shop'` stops it"
    hint = RunFolder(tmp_path).already_locked().hint
    assert f"`recommend status --data-dir {tmp_path}`" in hint
    assert how_to_stop(tmp_path) in hint


def test_one_is_counted_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    _show(LoadOutcome(new=1), "interaction", None)
    _show(LoadOutcome(new=999, known=2), "item", None)
    assert capsys.readouterr().out == "1 interaction loaded\n1,001 items loaded\n"


async def test_too_little_to_learn_from_has_a_hint() -> None:
    too_little = FailedPreconditionError("tenant default has 0 interactions, and training needs at least 100")
    assert "`recommend load interactions FILE`" in (await _refused_training(too_little)).hint
    assert (await _refused_training(FailedPreconditionError("a training of tenant default is running"))).hint == ""


async def _refused_training(refusal: FailedPreconditionError) -> CommandError:
    class Refusing(RpcChannel):
        async def unary(self, *_: Any, **__: Any) -> Any:
            raise refusal

    async with Refusing("127.0.0.1:1", name="gpu_worker") as channel:
        with pytest.raises(CommandError, match="tenant default") as refused:
            await Trainer(channel, "default").train(
                hold_out=HoldOut.TIME, seed=1, activate=True, on_progress=lambda *_: None
            )
    return refused.value


def test_only_what_is_worse_is_forced() -> None:
    worse = Training("v1", activated=False, message="worse", activation_pending=False, report={})
    assert _hint_of(worse, DEFAULT_DATA_DIR) == "`recommend activate v1 --force` serves it anyway"
    hint = _hint_of(replace(worse, activation_pending=True), DEFAULT_DATA_DIR)
    assert "`recommend activate v1` does so at once" in hint
    assert "--force" not in hint


def test_a_stack_that_is_starting_is_not_asked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.locked():
        folder.write_state(
            StackState(os.getpid(), created_at(os.getpid()), "starting", ("http://127.0.0.1:1",), auth=True)
        )
        result = CliRunner().invoke(app, ["models", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, CommandError)
    assert "starting" in result.exception.message


def test_errors_are_two_lines_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recommend", "models", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error No stack runs on")
    assert "recommend up" in said


def _list(*ids: str) -> RecommendedList:
    items = [Recommendation("film", each, f"Title {each}", 1.0, {"year": 1994, "genres": ["War"]}, ()) for each in ids]
    return RecommendedList(items, "v1", "hybrid", ())


def test_a_changed_list_marks_what_is_new_and_what_moved() -> None:
    text = _text(list_table(_list("c", "a", "d"), before=_list("a", "b", "d")))
    rows = [line.split() for line in text.splitlines() if "Title" in line]
    assert rows[0][:3] == ["1", "new", "Title"]
    assert rows[1][:3] == ["2", "1", "↓"]
    assert rows[2][:3] == ["3", "3", "Title"]


def test_every_list_says_what_it_had_to_do_without() -> None:
    whole = _list("a")
    assert "without" not in _text(list_table(whole))
    late = replace(whole, degraded=("graph", "content"))
    for table in (list_table(late), list_table(late, before=whole), list_table(late, item_ids=True)):
        assert _text(table).rstrip().endswith("without graph, content, which could not be asked")


def test_reasons_are_worded() -> None:
    item = {"item_id": "1", "title": "Alien"}
    assert why([{"code": "because_you_interacted", "item": item}]) == "because of Alien"
    through = {"code": "related_through", "item": item, "through": "Ridley Scott", "meta_path": "item_person_item"}
    assert why([through, through]) == "Ridley Scott, as in Alien"
    together = {"code": "related_through", "item": item, "through": "150", "meta_path": "item_user_item"}
    assert why([together]) == "the same people like Alien"
    assert why([{"code": "trending"}]) == "many like it now"
    assert why([{"code": "brand_new"}]) == "brand new"
    assert why([]) == ""


def test_items_are_described_by_what_they_have() -> None:
    assert about({"year": 1994, "genres": ["A", "B", "C", "D"], "actors": ["X"]}) == "1994 · A, B"
    assert about({"colour": "red", "size": 3}) == "red"
    assert about({}) == ""


@pytest.mark.parametrize("width", [80, 120])
def test_models_and_their_figures_are_listed(width: int) -> None:
    metrics = {"HR@10": 0.5, "MAP@10": 0.125, "NDCG@10": 0.25, "Recall@10": 0.5}
    serving = Model("20261123T164831-b5a05c42", 1_700_000_000_000, True, 300, 120, 1_800, metrics, "")
    reason = "its NDCG@10 of 0.0100 is worse than the 0.0307 of popularity on the same users"
    refused = Model("20261123T164756-02b25e5c", 1_600_000_000_000, False, 300, 120, 1_800, {}, reason)
    console = Console(width=width)
    text = _text(models_listing([serving, refused], console), width)
    assert "…" not in text
    assert "20261123T164831-b5a05c42  serves  2023-11-1" in text
    assert "0.2500" in text
    assert ("0.5000" in text) == (width == 120)
    assert f"20261123T164756-02b25e5c was refused: {reason}" in " ".join(text.split())


def test_a_hold_out_is_described() -> None:
    report = {"metrics": {"blend": {"NDCG@10": 0.25, "HR@10": 0.5}, "popularity": {"NDCG@10": 0.1}}}
    assert "0.1000" in _text(hold_out_table(report))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_leaves_out_what_has_no_room(width: int) -> None:
    console = Console(width=width)
    row = {"name": "n" * 20, "long": "l" * 40, "longer": "r" * 40, "count": "7"}
    table = fitting_table(console, [row], left=("name", "long"), right=("longer", "count"), spare=("longer", "long"))
    text = _text(table, width)
    assert "…" not in text
    assert ("llll" in text, "rrrr" in text, "7" in text) == (width >= 80, width >= 120, True)


def test_status_is_whole_in_80_columns(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    own = ServiceState("hot_path_api", os.getpid(), created_at(os.getpid()), "127.0.0.1:1", "http", 1, restarts=12345)
    with folder.locked():
        folder.write_state(
            StackState(
                os.getpid(), created_at(os.getpid()), "ready", ("http://127.0.0.1:1",), auth=True,
                services={"hot_path_api-2": own},
            )
        )  # fmt: skip
        result = CliRunner().invoke(app, ["status", "--data-dir", str(tmp_path)], env={"COLUMNS": "80"})
    assert result.exit_code == 1
    assert "does not serve" in result.output
    assert "12345" in result.output
    assert "…" not in result.output
