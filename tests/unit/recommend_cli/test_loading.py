import asyncio
from collections import defaultdict
from collections.abc import Sequence

import orjson
import pytest

from recommend_cli.clients.gateway import Refused, Written
from recommend_cli.datasets.files import BadLine, Line, Record
from recommend_cli.errors import CommandError
from recommend_cli.loading import BATCH, BATCH_BYTES, send_all


async def test_each_users_records_arrive_in_order() -> None:
    arrived: dict[str, list[int]] = defaultdict(list)

    async def send(records: Sequence[Record]) -> Written:
        await asyncio.sleep(0.001 * (len(records) % 7))
        for record in records:
            arrived[record["user_id"]].append(record["at"])
        return Written(new=len(records))

    lines = [Line(at + 1, {"user_id": f"u{at % 13}", "at": at}) for at in range(3 * BATCH)]
    outcome = await send_all(lines, send, stream_key="user_id")
    assert outcome.new == len(lines)
    assert sum(map(len, arrived.values())) == len(lines)
    assert all(order == sorted(order) for order in arrived.values())


async def test_bad_lines_and_refused_records_are_named_by_line() -> None:
    async def send(records: Sequence[Record]) -> Written:
        refused = [Refused(at, "no such type") for at, record in enumerate(records) if record["user_id"] == "bad"]
        return Written(new=len(records) - len(refused), refused=refused)

    progress = list[int]()
    lines: list[Line | BadLine]
    lines = [Line(2, {"user_id": "a"}), BadLine(3, "not JSON"), Line(4, {"user_id": "bad"}), Line(7, {"user_id": "b"})]
    outcome = await send_all(lines, send, stream_key="user_id", on_progress=progress.append)
    assert outcome.new == outcome.loaded == 2
    assert outcome.bad == {3: "not JSON", 4: "no such type"}
    assert sum(progress) == 4


async def test_a_gateway_that_is_away_ends_the_loading() -> None:
    async def send(_: Sequence[Record]) -> Written:
        raise CommandError("away")

    lines = [Line(at, {"user_id": str(at)}) for at in range(20 * BATCH)]
    with pytest.raises(CommandError, match="away"):
        await send_all(lines, send, stream_key="user_id")


async def test_nothing_is_nothing() -> None:
    async def send(_: Sequence[Record]) -> Written:
        pytest.fail("there is nothing to send")

    assert (await send_all([], send, stream_key="user_id")).loaded == 0


async def test_batches_are_bounded_by_bytes_and_a_record_too_long_is_named() -> None:
    sent = list[int]()

    async def send(records: Sequence[Record]) -> Written:
        sent.append(len(orjson.dumps(records)))
        return Written(new=len(records))

    texts = ["x" * 80_000] * 300
    texts[150] *= 100
    lines = [Line(at, {"item_id": str(at), "description": text}) for at, text in enumerate(texts, start=1)]
    outcome = await send_all(lines, send, stream_key="item_id")
    assert outcome.new == 299
    assert max(sent) < 1.1 * BATCH_BYTES
    assert [*outcome.bad] == [151]
    assert "8,000,0" in outcome.bad[151]
