"""Visitors who read lists and like films without a pause, and what they saw: the load of a test that breaks things.

Every like has an id of its own and is sent until it is acknowledged, as a careful caller would, so that at the end
each must stand in the store exactly once. Callers know all gateways and go on to the next when one is not there.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import numpy as np

from e2e.shop import FILMS_A_THEME, THEMES, VISITORS
from e2e.stack import Stack, until

READERS = 3
WRITERS = 2
READS_A_SECOND = 10.0  # of each reader
WRITES_A_SECOND = 5.0  # of each writer
TIMEOUT_S = 5.0
PAUSE_S = 0.1  # before an unacknowledged like is sent again
PATIENCE_S = 60.0  # for one like
LIKES_OF_A_VISITOR = 20
STORED_S = 60.0  # a like that waits in the log may wait until a killed reader's partitions have another one


@dataclass(frozen=True)
class Answer:
    """One answer: when it came (monotonic seconds), how long it took, its status (0: none came) and what it lacked."""

    at: float
    seconds: float
    status: int
    degraded: tuple[str, ...] = ()


@dataclass
class Observed:
    """What the visitors have seen so far."""

    reads: list[Answer] = field(default_factory=list)
    writes: list[Answer] = field(default_factory=list)
    likes: dict[str, set[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def statuses(self, answers: list[Answer]) -> Counter[int]:
        """Count the answers by status."""
        return Counter(answer.status for answer in answers)

    def lacking(self, since: float) -> Counter[str]:
        """Count what the lists lacked since that moment."""
        return Counter(name for answer in self.reads if answer.at >= since for name in answer.degraded)

    def latency_s(self, *, since: float, percentile: float = 95) -> float:
        """Give a percentile of the lists' latency since that moment; infinite when there was none."""
        seconds = [answer.seconds for answer in self.reads if answer.at >= since]
        return float(np.percentile(seconds, percentile)) if seconds else float("inf")


class Traffic:
    """The visitors of one stack; a context manager, after which every like that was begun is acknowledged."""

    def __init__(self, stack: Stack) -> None:
        self._urls = [str(client.base_url) for client in stack.clients]
        self._headers = dict(stack.client.headers)
        self._stop = threading.Event()
        self._run_id = uuid4().hex[:8]
        self.observed = Observed()
        self._threads = [
            *(threading.Thread(target=self._read, args=(number,)) for number in range(READERS)),
            *(threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)),
        ]

    @contextmanager
    def flowing(self) -> Iterator[Observed]:
        """Let them come and go while the context is open."""
        for thread in self._threads:
            thread.start()
        try:
            yield self.observed
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        assert not self.observed.problems, self.observed.problems[:3]

    def _read(self, number: int) -> None:
        with self._clients() as clients:
            for turn in itertools.count(number):
                if self._stop.wait(1 / READS_A_SECOND):
                    return
                visitor = f"visitor-{turn % VISITORS}"
                answer = self._call(clients, turn, "GET", "/api/recommendations", params={"user_id": visitor})
                self.observed.reads.append(answer)

    def _write(self, number: int) -> None:
        with self._clients() as clients:
            for turn in itertools.count():
                if self._stop.wait(1 / WRITES_A_SECOND):
                    return
                visitor = f"liker-{self._run_id}-{number}-{turn // LIKES_OF_A_VISITOR}"
                theme = list(THEMES)[turn % len(THEMES)]
                like = {
                    "event_id": uuid4().hex,
                    "user_id": visitor,
                    "item_id": f"{theme}-{turn % FILMS_A_THEME}",
                    "item_type": "film",
                    "interaction_type": "like",
                }
                give_up = time.monotonic() + PATIENCE_S
                while True:
                    answer = self._call(clients, turn, "POST", "/api/v1/interactions", json=like)
                    self.observed.writes.append(answer)
                    if 200 <= answer.status < 300:
                        break
                    if 400 <= answer.status < 500 and answer.status != httpx.codes.TOO_MANY_REQUESTS:
                        self.observed.problems.append(f"a like was refused with {answer.status}")
                        return
                    if time.monotonic() > give_up:
                        self.observed.problems.append(
                            f"a like was not taken in {PATIENCE_S:.0f} s, {answer.status} at last"
                        )
                        return
                    time.sleep(PAUSE_S)
                self.observed.likes.setdefault(visitor, set()).add(like["event_id"])

    def _call(self, clients: list[httpx.Client], turn: int, method: str, path: str, **more: Any) -> Answer:
        """Ask a gateway, and the next one while there is no answer; time what the caller waits."""
        started = time.monotonic()
        for client in (clients[(turn + step) % len(clients)] for step in range(len(clients))):
            try:
                answer = client.request(method, path, **more)
            except httpx.TransportError:
                continue
            degraded = tuple(answer.json().get("degraded", ())) if answer.status_code == httpx.codes.OK else ()
            ended = time.monotonic()
            return Answer(ended, ended - started, answer.status_code, degraded)
        ended = time.monotonic()
        return Answer(ended, ended - started, 0)

    @contextmanager
    def _clients(self) -> Iterator[list[httpx.Client]]:
        clients = [httpx.Client(base_url=url, headers=self._headers, timeout=TIMEOUT_S) for url in self._urls]
        try:
            yield clients
        finally:
            for client in clients:
                client.close()


def wait_until_stored(stack: Stack, seen: Observed) -> None:
    """Wait until each acknowledged like is stored, once."""
    for visitor, likes in seen.likes.items():
        until(
            lambda: sorted(stored_likes(stack, visitor)) == sorted(likes),  # noqa: B023 - used at once
            within_s=STORED_S,
            what=f"each like of {visitor} is stored, once",
        )


def stored_likes(stack: Stack, visitor: str) -> list[str]:
    """Give the ids of a visitor's stored likes, each as often as it is there."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        parameters: dict[str, str | int] = {"limit": 100, **({"cursor": cursor} if cursor else {})}
        answer = stack.client.get(f"/api/v1/interactions/user/{visitor}", params=parameters)
        assert answer.status_code == httpx.codes.OK, answer.text
        document = answer.json()
        found += [each["event_id"] for each in document["interactions"]]
        cursor = document["next_cursor"]
    return found
