import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from recommend_cli.app import app
from recommend_cli.clients.log import opened_log
from recommend_cli.errors import CommandError
from recommend_cli.stack.stores import open_stores
from recommendation.events.v1 import events_pb2
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.port import NewRecord, Record
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.topics import USER_INTERACTIONS, default_specs, dlq

GOOD = events_pb2.InteractionRecorded(event_id="good", user_id="ann", item_id="alien").SerializeToString()


async def _refuse_all(records: Sequence[Record]) -> Sequence[RecordFailure]:
    return [RecordFailure(record, InvalidArgumentError("nobody knows this item")) for record in records]


async def _write_and_put_aside(data_dir: Path, records: Sequence[NewRecord]) -> None:
    async with opened_log(open_stores(data_dir)) as log:
        await log.ensure_topics(default_specs())
        await log.producer().append(records)
        stop = asyncio.Event()
        consumer = log.consumer([USER_INTERACTIONS], group="test")
        running = asyncio.create_task(ConsumerRunner(consumer, _refuse_all, log.producer(), name="test").run(stop))
        while sum((await log.end_offsets([dlq(USER_INTERACTIONS)])).values()) < len(records):
            assert not running.done()
            await asyncio.sleep(0.01)
        stop.set()
        await running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    records = [
        NewRecord(USER_INTERACTIONS, "default/ann", GOOD, {"trace": b"t-1"}),
        NewRecord(USER_INTERACTIONS, "default/bob", b"\xff\x00"),
    ]
    asyncio.run(_write_and_put_aside(tmp_path, records))
    return tmp_path


def _run(*arguments: str, data_dir: Path, columns: int = 200) -> Result:
    return CliRunner().invoke(app, ["dlq", *arguments, "--data-dir", str(data_dir)], env={"COLUMNS": str(columns)})


async def _count(data_dir: Path, topic: str) -> int:
    async with opened_log(open_stores(data_dir)) as log:
        return sum((await log.end_offsets([topic])).values())


def test_letters_are_listed_with_what_was_wrong(data_dir: Path) -> None:
    listed = _run("list", data_dir=data_dir)
    assert listed.exit_code == 0, listed.output
    for place in ("user.interactions.dlq/0/0", "user.interactions.dlq/0/1"):
        assert place in listed.output
    assert listed.output.count("nobody knows this item") == 2
    assert "No dead letters" in _run("list", "--topic", "content.changed", data_dir=data_dir).output


def test_a_letter_takes_two_lines_of_80_columns(data_dir: Path) -> None:
    lines = [line.rstrip() for line in _run("list", data_dir=data_dir, columns=80).output.splitlines()]
    assert [line.partition("  ")[0] for line in lines[::2]] == [f"user.interactions.dlq/0/{place}" for place in (0, 1)]
    assert all(line.endswith("nobody knows this item") for line in lines[1::2])
    assert len(lines) == 4


def test_a_letter_is_shown_as_its_topic_reads_it_or_as_it_is(data_dir: Path) -> None:
    shown = [_run("show", f"user.interactions.dlq/0/{offset}", data_dir=data_dir).output for offset in range(2)]
    readable, other = sorted(shown, key=lambda text: '"item_id": "alien"' not in text)
    assert '"item_id": "alien"' in readable
    assert "t-1" in readable
    assert "InvalidArgumentError" in readable
    assert "ff 00" in other


def test_a_letter_is_sent_again_once(data_dir: Path) -> None:
    letter = "user.interactions.dlq/0/0"
    assert f"{letter} sent to user.interactions" in _run("retry", letter, data_dir=data_dir).output
    assert asyncio.run(_count(data_dir, USER_INTERACTIONS)) == 3
    assert "Nothing to send" in _run("retry", letter, data_dir=data_dir).output
    assert letter not in _run("list", data_dir=data_dir).output
    assert "sent again" in _run("list", "--all", data_dir=data_dir).output
    rest = _run("retry", "--topic", USER_INTERACTIONS, data_dir=data_dir).output
    assert "user.interactions.dlq/0/1 sent" in rest
    assert asyncio.run(_count(data_dir, USER_INTERACTIONS)) == 4


def test_a_letter_that_was_cut_is_shown_and_left_out_of_what_is_sent(tmp_path: Path) -> None:
    strange = {"big": bytes(1 << 20), "dlq-retried": b"\xff\xfe"}
    records = [
        NewRecord(USER_INTERACTIONS, "default/ann", GOOD),
        NewRecord(USER_INTERACTIONS, "default/ann", GOOD, strange, timestamp_ms=10**18),
    ]
    asyncio.run(_write_and_put_aside(tmp_path, records))
    cut = "user.interactions.dlq/0/1"
    assert cut in _run("list", data_dir=tmp_path).output
    assert "1 of 1 headers" in _run("show", cut, data_dir=tmp_path).output
    refused = _run("retry", cut, data_dir=tmp_path)
    assert isinstance(refused.exception, CommandError)
    assert "cannot be sent again" in refused.exception.message
    sent = _run("retry", "--topic", USER_INTERACTIONS, data_dir=tmp_path).output
    assert "user.interactions.dlq/0/0 sent to user.interactions" in sent
    assert f"{cut} left out" in sent


def test_of_a_log_that_nobody_used_there_is_nothing_to_list(tmp_path: Path) -> None:
    assert "No dead letters" in _run("list", data_dir=tmp_path).output


def test_a_folder_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    for command in (["list"], ["show", "user.interactions.dlq/0/0"], ["retry", "user.interactions.dlq/0/0"]):
        result = _run(*command, data_dir=tmp_path / "none")
        assert isinstance(result.exception, CommandError)
        assert "There is no folder" in result.exception.message
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nonsense"], "is no TOPIC"),
        (["show", "user.interactions.dlq/0/99"], "there is no dead letter"),
        (["list", "--topic", "weather"], "There is no topic weather"),
        (["retry"], "either letters or a topic"),
        (["retry", "user.interactions.dlq/0/0", "--topic", "user.interactions"], "either letters or a topic"),
    ],
)
def test_what_cannot_be_done_is_told(data_dir: Path, arguments: list[str], says: str) -> None:
    result = _run(*arguments, data_dir=data_dir)
    assert isinstance(result.exception, CommandError)
    assert says in result.exception.message


def test_a_log_that_its_settings_rule_out_is_told(tmp_path: Path) -> None:
    file = tmp_path / "stores.env"
    file.write_text("EVENT_LOG_URL=kafka://127.0.0.1:1\nKAFKA_SECURITY_PROTOCOL=SASL_SSL\n")
    result = _run("list", "--settings", str(file), data_dir=tmp_path)
    assert isinstance(result.exception, CommandError)
    assert "KAFKA_SASL_MECHANISM" in result.exception.message
