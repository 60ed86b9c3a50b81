"""Runs statements: the driver's threads meet the event loop here and nowhere else."""

import asyncio
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from cassandra.cluster import ResultSet
from cassandra.query import BatchStatement, BatchType

from profile_store.adapters.cql import policies
from profile_store.adapters.cql.columns import Columns
from profile_store.adapters.cql.errors import translated
from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, ResourceExhaustedError

Row = tuple[Any, ...]

_TABLE = re.compile(r"\b(FROM|INTO|UPDATE) (\w+)")

_WAITING_FOR_EACH_SLOT = 64
"""So many queries may wait for each one in flight before more are refused."""
_BATCH_OF_PARTITIONS = 10
"""Statements to different partitions that travel together; above ten the server warns."""
_BATCH_OF_ROWS = 30
"""Rows of one partition that travel together: below the 5 kB above which the server warns."""
_BATCH_CHARACTERS = 3_000
"""Text of a batch, but for a single row, which goes without one: with what else is in the rows below those 5 kB, where
texts are Latin, and far below the 50 kB above which the server refuses, whatever they are."""
_SINGLE = 16
"""Fewer statements than this go one by one, each to its own replica."""
PAGE_ROWS = 20_000
"""Rows of a page: about a megabyte."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that is prepared at start.

    Args:
        cql: Its text.
        kind: Whether it reads, writes, writes on a condition (LWT), or reads so much that Scylla's row cache should not
            learn from it.
    """

    cql: str
    kind: Literal["read", "write", "conditional", "scan"] = "read"

    def text(self, keyspace: str, *, scylla: bool) -> str:
        """Give the text for the server at hand, with the keyspace before the table."""
        text = _TABLE.sub(rf"\1 {keyspace}.\2", self.cql)
        return f"{text} BYPASS CACHE USING TIMEOUT 30s" if scylla and self.kind == "scan" else text


@dataclass(frozen=True, slots=True)
class _Page:
    """The rows of a page and where the next one begins, None after the last."""

    rows: Any
    following: bytes | None


class CqlSession:
    """Executes prepared statements from one event loop, at most `max_in_flight` at a time.

    Made by connection.py. Every query ends by the current deadline or after `timeout_s`, whichever is earlier. A query
    whose caller has given up keeps its place until the driver is done with it, so the bound holds for the server too.

    Args:
        rows: The driver's session that gives rows as tuples.
        columns: The driver's session that gives columns as numpy arrays.
        prepared: What was prepared, by statement.
        loop: Where the answers are handed out.
        max_in_flight: How many queries may be on their way.
        timeout_s: The longest that a query may take.
    """

    def __init__(
        self,
        rows: Any,
        columns: Any,
        prepared: Mapping[Statement, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._rows = rows
        self._columns = columns
        self._prepared = prepared
        self._timeout_s = timeout_s
        self._loop = loop
        self._free = max_in_flight
        self._max_waiting = max_in_flight * _WAITING_FOR_EACH_SLOT
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    async def rows(self, statement: Statement, *parameters: Any) -> list[Row]:
        """Read all rows of one page; for what is known to be small."""
        page = await self._execute(self._rows, self._prepared[statement].bind(parameters), _PROFILES[statement.kind])
        return list(page.rows)

    async def pages(self, statement: Statement, *parameters: Any, page_rows: int) -> AsyncIterator[list[Row]]:
        """Read rows page by page."""
        state = None
        while True:
            page = await self._execute(
                self._rows, self._bound(statement, parameters, page_rows), _PROFILES[statement.kind], state
            )
            yield list(page.rows)
            state = page.following
            if state is None:
                return

    async def columns(self, statement: Statement, *parameters: Any) -> Columns:
        """Read all rows as columns."""
        parts: list[Columns] = []
        state = None
        while True:
            page = await self._execute(
                self._columns, self._bound(statement, parameters, PAGE_ROWS), _PROFILES[statement.kind], state
            )
            parts.append(page.rows)
            state = page.following
            if state is None:
                break
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def write(self, statement: Statement, *parameters: Any) -> None:
        """Write, or delete, once."""
        await self._execute(self._rows, self._prepared[statement].bind(parameters), policies.WRITE)

    async def write_if(self, statement: Statement, *parameters: Any) -> Row:
        """Write, or delete, on the statement's condition; give whether it held and, if not, what stands against it.

        Never sent twice, so after an error it may have been done.
        """
        page = await self._execute(self._rows, self._prepared[statement].bind(parameters), policies.CONDITIONAL)
        row: Row = next(iter(page.rows))
        return row

    async def write_all(
        self, statement: Statement, rows: Sequence[Sequence[Any]], *, same_partition: bool = False
    ) -> None:
        """Write many rows at once, in no order; a few of them travel together when there are many."""
        size = _BATCH_OF_ROWS if same_partition else 1 if len(rows) < _SINGLE else _BATCH_OF_PARTITIONS
        await gather(self.write_together(statement, some) for some in batches(rows, size))

    async def write_together(self, statement: Statement, rows: Sequence[Sequence[Any]]) -> None:
        """Write rows in one request; when they are of one partition, all or none."""
        prepared = self._prepared[statement]
        if len(rows) == 1:
            await self._execute(self._rows, prepared.bind(rows[0]), policies.WRITE)
            return
        batch = BatchStatement(BatchType.UNLOGGED)
        batch.is_idempotent = True
        for row in rows:
            batch.add(prepared, row)
        await self._execute(self._rows, batch, policies.WRITE)

    def _bound(self, statement: Statement, parameters: Sequence[Any], page_rows: int) -> Any:
        bound = self._prepared[statement].bind(parameters)
        bound.fetch_size = page_rows
        return bound

    async def _execute(self, session: Any, bound: Any, profile: str, paging_state: bytes | None = None) -> _Page:
        give_up = self._loop.time() + min(self._timeout_s, remaining_s())
        await self._take_place(give_up)
        left = give_up - self._loop.time()
        if left <= 0.0:
            self._give_place()
            raise DeadlineExceededError("no time is left to ask the store")
        answer: asyncio.Future[Any] = self._loop.create_future()
        try:
            future = session.execute_async(bound, timeout=left, execution_profile=profile, paging_state=paging_state)
        except BaseException as error:
            self._give_place()
            raise translated(error) from error
        future.add_callbacks(
            lambda rows: self._arrived(answer, rows, None), lambda error: self._arrived(answer, None, error)
        )
        rows = await answer
        return _Page(rows, ResultSet(future, None).paging_state)

    # --- the bridge

    def _arrived(self, answer: "asyncio.Future[Any]", rows: Any, error: BaseException | None) -> None:
        """Take an answer on the driver's thread; the loop is woken once for all that arrive before it looks."""
        self._done.append((answer, rows, error))
        if not self._woken:
            self._woken = True
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._woken = False  # before looking: what arrives from now on wakes the loop again
        while self._done:
            answer, rows, error = self._done.popleft()
            self._give_place()
            if answer.done():
                continue  # whoever asked has given up
            if error is None:
                answer.set_result(rows)
            else:
                answer.set_exception(translated(error))

    # --- the bound

    async def _take_place(self, give_up: float) -> None:
        if self._free > 0:
            self._free -= 1
            return
        if len(self._waiting) >= self._max_waiting:
            raise ResourceExhaustedError(f"{len(self._waiting)} queries wait for the store already")
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        timer = None if give_up == math.inf else self._loop.call_at(give_up, _expire, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_place()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _give_place(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


async def gather(work: Iterable[Any]) -> list[Any]:
    """Run all at once and give their results in order; all have ended when the first error is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def batches(rows: Sequence[Sequence[Any]], size: int) -> Iterator[Sequence[Sequence[Any]]]:
    """Cut rows into batches of at most `size`, and of fewer where their texts are long."""
    start, characters = 0, 0
    for at, row in enumerate(rows):
        length = sum(len(value) for value in row if isinstance(value, str | bytes))
        if at > start and (at - start == size or characters + length > _BATCH_CHARACTERS):
            yield rows[start:at]
            start, characters = at, 0
        characters += length
    if start < len(rows):
        yield rows[start:]


def chunks(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Cut a sequence into parts of at most `size`."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def _expire(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(DeadlineExceededError("the store was busy for as long as there was time"))


_PROFILES: Mapping[str, str] = {"read": policies.READ, "write": policies.WRITE, "scan": policies.READ}
