"""Runs the load generator and reads what it measured."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from recommend_cli.errors import CommandError

_OK: Final = b"HTTP/1.1 200"
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the headers, besides Host, that its requests carry."""

    host: str
    port: int
    headers: tuple[tuple[str, str], ...] = ()

    def get(self, path: str) -> str:
        """Write a GET request."""
        lines = [f"GET {path} HTTP/1.1", f"Host: {self.host}:{self.port}", *(f"{k}: {v}" for k, v in self.headers)]
        return "\r\n".join(lines) + "\r\n\r\n"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The answers in the order in which they came, as columns of one length.

    `requests` are the positions in the list of requests (int64), `due` and `ended` seconds of one clock (float64),
    `answers` whole answers, head and body, empty for a connection that was lost. `seconds` is the time from the first
    request to the last answer.
    """

    requests: npt.NDArray[np.int64]
    due: npt.NDArray[np.float64]
    ended: npt.NDArray[np.float64]
    answers: Sequence[bytes]
    generator_cpu_s: float
    seconds: float

    @classmethod
    def joined(cls, turns: Sequence[Self]) -> Self:
        """Make one result of a load that was put on in several turns."""
        return cls(
            requests=np.concatenate([turn.requests for turn in turns]),
            due=np.concatenate([turn.due for turn in turns]),
            ended=np.concatenate([turn.ended for turn in turns]),
            answers=[answer for turn in turns for answer in turn.answers],
            generator_cpu_s=sum(turn.generator_cpu_s for turn in turns),
            seconds=sum(turn.seconds for turn in turns),
        )

    @property
    def count(self) -> int:
        """How many requests were answered, or given up."""
        return len(self.requests)

    @property
    def requests_per_s(self) -> float:
        """Answers over the time that they took."""
        return self.count / self.seconds

    def latency_ms(self, percentile: float) -> float:
        """Give a percentile of the time from due to answered."""
        return float(np.percentile(self.ended - self.due, percentile)) * 1000

    def bodies(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Give the request, the head and the body of every answer."""
        for request, answer in zip(self.requests.tolist(), self.answers, strict=True):
            head, _, body = answer.partition(b"\r\n\r\n")
            yield request, head, body

    def failures(self) -> int:
        """Count the answers that are no 200."""
        return sum(not answer.startswith(_OK) for answer in self.answers)


async def run_load(
    target: Target, requests: Sequence[str], *, seconds: float, connections: int, requests_per_s: float = 0.0
) -> LoadResult:
    """Send the requests in turn, over and over, for so many seconds; closed loop unless a rate is given.

    Raises:
        CommandError: The generator failed; its last words are the hint.
    """
    plan = {
        "host": target.host,
        "port": target.port,
        "requests": list(requests),
        "seconds": seconds,
        "connections": connections,
        "requests_per_s": requests_per_s,
        "seed": _SEED,
    }
    with tempfile.TemporaryDirectory() as folder:
        result_path = Path(folder, "result.npz")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "recommend_cli.bench.generator", str(result_path),
            stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            _, words = await process.communicate(json.dumps(plan).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise CommandError("The load generator failed", hint=words.decode(errors="replace")[-2000:])
        return _read(result_path)


def _read(path: Path) -> LoadResult:
    with np.load(path) as result:
        blob = result["answers"].tobytes()
        ends = np.cumsum(result["lengths"]).tolist()
        starts = [0, *ends[:-1]]
        return LoadResult(
            requests=result["requests"],
            due=result["due"],
            ended=result["ended"],
            answers=[blob[start:end] for start, end in zip(starts, ends, strict=True)],
            generator_cpu_s=float(result["cpu_s"]),
            seconds=float(result["ended"].max() - result["due"].min()),
        )
