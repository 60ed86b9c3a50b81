"""Reads a Dockerfile: its stages, and what each instruction of them says."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Copy:
    """One COPY; `stage` is empty when it copies from the build's context."""

    sources: tuple[str, ...]
    target: str
    stage: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """What begins with a FROM; each instruction is its keyword and the rest of its line."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def values(self, keyword: str) -> list[str]:
        """Give the rest of each line that begins with the keyword."""
        return [value for word, value in self.instructions if word == keyword]

    def only(self, keyword: str) -> str:
        """Give the rest of the one line that begins with the keyword."""
        (value,) = self.values(keyword)
        return value

    def command(self, keyword: str) -> list[str]:
        """Give a command that is written as JSON, which needs no shell."""
        value = self.only(keyword)
        command: list[str] = json.loads(value[value.index("[") :])
        return command

    def pairs(self, keyword: str) -> dict[str, str]:
        """Give what ENV or LABEL sets."""
        words = [word for value in self.values(keyword) for word in shlex.split(value)]
        return dict(word.split("=", 1) for word in words)

    def runs(self) -> list[str]:
        """Give the commands of all RUN, without BuildKit's options."""
        return [re.sub(r"^(--\S+\s+)+", "", value) for value in self.values("RUN")]

    def copies(self) -> list[Copy]:
        """Give all COPY."""
        return [_copy(value) for value in self.values("COPY")]


def read_dockerfile(path: Path) -> dict[str, Stage]:
    """Give the stages by name, in order; the last one, which is the image, has none and is called ""."""
    stages: list[tuple[str, str, list[tuple[str, str]]]] = []
    for keyword, value in _instructions(path.read_text(encoding="utf-8")):
        if keyword == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append((name, base, []))
        elif stages:
            stages[-1][2].append((keyword, value))
    return {name: Stage(name, base, tuple(instructions)) for name, base, instructions in stages}


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        keyword, _, value = line.partition(" ")
        yield keyword, value.strip()


def _copy(value: str) -> Copy:
    words = value.split()
    options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    return Copy(tuple(sources), target, options.get("from", ""), options.get("chown", ""))
