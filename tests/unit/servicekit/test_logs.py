"""All logs leave as one line each, with the same fields."""

import contextvars
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from servicekit.logs import configure_logging, get_logger
from servicekit.request_id import begin_request


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_line_says_who_and_when_and_what(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("example", level="INFO", format="json")

    get_logger("example.part").info("something happened", count=3)

    (line,) = lines(capsys)
    assert line.pop("timestamp")
    assert line == {
        "event": "something happened",
        "count": 3,
        "level": "info",
        "module": "example.part",
        "service": "example",
    }


def test_a_logger_made_before_the_set_up_obeys_it(capsys: pytest.CaptureFixture[str]) -> None:
    log = get_logger("early")
    configure_logging("example", level="WARNING", format="json")

    log.info("not told")
    log.warning("told")

    assert [line["event"] for line in lines(capsys)] == ["told"]


def test_the_standard_library_logs_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("example", level="INFO", format="json")

    logging.getLogger("some.driver").warning("odd: %s", 7)

    (line,) = lines(capsys)
    assert (line["event"], line["module"], line["level"], line["service"]) == (
        "odd: 7",
        "some.driver",
        "warning",
        "example",
    )


def test_the_request_id_is_in_every_line_of_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("example", level="INFO", format="json")

    def handle() -> None:
        begin_request("req-1")
        get_logger("here").info("inside")

    contextvars.copy_context().run(handle)
    get_logger("here").info("outside")

    inside, outside = lines(capsys)
    assert inside["request_id"] == "req-1"
    assert "request_id" not in outside


def test_a_traceback_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("example", level="INFO", format="json")

    try:
        int("x")
    except ValueError:
        get_logger("here").exception("it failed")

    (line,) = lines(capsys)
    assert "ValueError: invalid literal" in str(line["exception"])


def test_the_console_format_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("example", level="INFO", format="console")

    get_logger("here").info("hello", who="you")

    printed = capsys.readouterr().err
    assert "hello" in printed
    assert "who=you" in printed
