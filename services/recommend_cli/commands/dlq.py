"""`dlq`: the records that no consumer could apply."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recommend_cli.clients.log import opened_log
from recommend_cli.console import OUT
from recommend_cli.errors import CommandError
from recommend_cli.options import DataDir, SettingsFile, StoreChoice
from recommend_cli.stack.folder import stores_of
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, StoreKind, Stores
from recommendation.events.v1 import events_pb2
from servicekit.errors import NotFoundError
from servicekit.eventlog import topics
from servicekit.eventlog.dead_letters import DeadLetter, DeadLetters
from servicekit.eventlog.decode import DecodeError, decode
from servicekit.eventlog.port import Record

_MESSAGES: Final[dict[str, type[Message]]] = {
    topics.CONTENT_CHANGED: events_pb2.ContentChanged,
    topics.USER_INTERACTIONS: events_pb2.InteractionRecorded,
    topics.USER_ERASED: events_pb2.UserErased,
    topics.CONTENT_EMBEDDED: events_pb2.ContentEmbedded,
    topics.RECOMMENDATIONS_SERVED: events_pb2.RecommendationServed,
    topics.MODEL_PUBLISHED: events_pb2.ModelPublished,
}
_ERROR_LENGTH: Final = 120
_BYTES_SHOWN: Final = 1_000
_SENT_AT_ONCE: Final = 10_000

dlq = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Look through the dead letters: the records that failed for good."
)

Topic = Annotated[str, typer.Option("--topic", "-t", help="Only those that came from this topic.")]
LetterId = Annotated[str, typer.Argument(help="As `recommend dlq list` shows it.")]


@dlq.command("list")
def list_letters(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    topic: Topic = "",
    everything: Annotated[bool, typer.Option("--all", help="Also those that were sent again.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="The most of each topic.", min=1)] = 100,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
) -> None:
    """List the dead letters, the oldest first."""
    chosen = _stores(data_dir, stores, settings)
    letters = asyncio.run(_list(chosen, _topics(topic), include_retried=everything, limit=limit))
    if not letters:
        OUT.print("No dead letters")
        return
    OUT.print(_letters_listing(letters))


@dlq.command("show")
def show_letter(
    letter_id: LetterId,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
) -> None:
    """Show one dead letter: where it came from, what was wrong and what it says."""
    letter = asyncio.run(_show(_stores(data_dir, stores, settings), letter_id))
    OUT.print(_letter_table(letter))
    OUT.print(_content(letter), markup=False, soft_wrap=True)


@dlq.command("retry")
def retry_letters(
    letter_ids: Annotated[list[str] | None, typer.Argument(help="As `recommend dlq list` shows them.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    topic: Annotated[str, typer.Option("--topic", "-t", help="All that came from this topic.")] = "",
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
) -> None:
    """Send dead letters to their topic again; one that was sent before is left out."""
    if bool(letter_ids) == bool(topic):
        raise CommandError("Name either letters or a topic", hint="`recommend dlq retry ID …` or `--topic TOPIC`")
    sent, cut = asyncio.run(_retry(_stores(data_dir, stores, settings), letter_ids or [], topic))
    for letter in sent:
        OUT.print(f"{letter.letter_id} sent to {letter.topic}", markup=False)
    for letter in cut:
        OUT.print(f"{letter.letter_id} left out: only a part of its record was kept ({letter.truncated})", markup=False)
    if not (sent or cut):
        OUT.print("Nothing to send: all of them were sent before")


def _stores(data_dir: Path, kind: StoreKind, settings: Path | None) -> Stores:
    """Give the stores to look through; a mistyped folder is not made, and said to hold no letters.

    Raises:
        CommandError: There is no such folder, and no settings file that says where the log is.
    """
    if settings is None and not data_dir.is_dir():
        raise CommandError(f"There is no folder {data_dir.resolve()}", hint="`--data-dir` names the folder of a stack")
    return stores_of(data_dir, kind, settings)


def _topics(topic: str) -> tuple[str, ...]:
    """Give the topics to look at.

    Raises:
        CommandError: There is no such topic.
    """
    if topic and topic not in _MESSAGES:
        raise CommandError(f"There is no topic {topic}", hint=f"one of {', '.join(_MESSAGES)}")
    return (topic,) if topic else tuple(_MESSAGES)


async def _list(stores: Stores, names: Sequence[str], *, include_retried: bool, limit: int) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    async with opened_log(stores) as log:
        letters = DeadLetters(log)
        for name in names:
            try:
                found += await letters.list(name, include_retried=include_retried, limit=limit)
            except NotFoundError:
                continue  # no service has used this log yet
    return sorted(found, key=lambda letter: letter.put_aside_ms)


async def _show(stores: Stores, letter_id: str) -> DeadLetter:
    async with opened_log(stores) as log:
        return await DeadLetters(log).show(letter_id)


async def _retry(
    stores: Stores, letter_ids: Sequence[str], topic: str
) -> tuple[Sequence[DeadLetter], Sequence[DeadLetter]]:
    """Give the letters that were sent, and of a topic's those that cannot be."""
    found: Sequence[DeadLetter] = ()
    if topic:
        found = await _list(stores, _topics(topic), include_retried=False, limit=_SENT_AT_ONCE)
        letter_ids = [letter.letter_id for letter in found if not letter.truncated]
    async with opened_log(stores) as log:
        return await DeadLetters(log).retry(letter_ids), [letter for letter in found if letter.truncated]


def _letters_listing(letters: Sequence[DeadLetter]) -> RenderableType:
    """Describe letters in two lines each, since beside all the rest an error would have no room in 80 columns."""
    lines: list[RenderableType] = []
    for letter in letters:
        aside = f"{_moment(letter.put_aside_ms)} by {letter.consumer}, {letter.attempts}. time"
        lines.append(Text.assemble((letter.letter_id, "bold"), "  ", aside))
        again = f" (sent again {_moment(letter.retried_ms)})" if letter.retried_ms is not None else ""
        lines.append(Padding(Text.assemble(letter.error[:_ERROR_LENGTH], (again, "dim")), (0, 0, 0, 2)))
    return Group(*lines)


def _letter_table(letter: DeadLetter) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = {
        "letter": letter.letter_id,
        "from": f"{letter.topic}/{letter.partition}/{letter.offset}, written {_moment(letter.timestamp_ms)}",
        "put aside": f"{_moment(letter.put_aside_ms)} by {letter.consumer}, {letter.attempts}. time",
        "error": f"{letter.error} ({letter.error_class}, {letter.error_code})",
        "sent again": _moment(letter.retried_ms) if letter.retried_ms is not None else "no",
        **({"cut off": letter.truncated} if letter.truncated else {}),
        "key": letter.key,
        **{name: _text(value) for name, value in letter.headers.items()},
    }
    for name, value in rows.items():
        table.add_row(f"[dim]{escape(name)}[/]", escape(value))
    return table


def _content(letter: DeadLetter) -> str:
    """Give the record's value as its topic reads it, or, where that fails, as it is."""
    record = Record(
        letter.topic, letter.partition, letter.offset, letter.key, letter.value, letter.headers, letter.timestamp_ms
    )
    try:
        return str(MessageToJson(decode(record, _MESSAGES[letter.topic]), preserving_proto_field_name=True))
    except (DecodeError, KeyError):
        return _text(letter.value[:_BYTES_SHOWN])


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex(" ")


def _moment(time_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"  # whoever sends a record says when it was written
