"""The commands that the documents tell people to run, each tried on the parser of its program."""

import contextlib
import io
import os
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn
from unittest import mock

import typer

from deploy_support.builds import ROOT
from recommend_cli.app import app

DOCUMENTS: Final = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_CODE = re.compile(r"^```\w*\n(.*?)^```|^ {4,}(\S.*?)$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|\s)(python -m |recommend )(?=[a-z])([^\n;&|<>`#]*)")
_STORES: Final = {
    "GRAPH_STORE_URL": "neo4j://192.0.2.1:7687",
    "PROFILE_STORE_URL": "cql://192.0.2.1:9042/k",
    "VECTOR_STORE_URL": "qdrant://192.0.2.1:6334",
}
"""Without a store some programs end before they read their arguments; nobody is asked there."""


class _TakenError(Exception):
    """The parser took the arguments; nothing else of the program shall run."""


def commands_in(text: str) -> Iterator[list[str]]:
    """Give each `python -m …` and `recommend …` in a document's code, as words."""
    for match in _CODE.finditer(text):
        for program, arguments in _COMMAND.findall(next(part for part in match.groups() if part)):
            yield [*program.split(), *shlex.split(arguments)]


def commands(paths: tuple[Path, ...] = DOCUMENTS) -> list[list[str]]:
    """Give those of all documents, each once."""
    found = {tuple(words) for path in paths for words in commands_in(path.read_text())}
    return [list(words) for words in sorted(found)]


def refused(words: list[str]) -> str | None:
    """Tell what is wrong with a command, None when its program would take it."""
    return _refused_by_recommend(words[1:]) if words[0] == "recommend" else _refused_by_module(*words[2:])


def _refused_by_module(module: str, *arguments: str) -> str | None:
    found = find_spec(module) if find_spec(module.partition(".")[0]) else None
    if found is None:
        return f"there is no module {module}"
    program = import_module(f"{module}.__main__" if found.submodule_search_locations else module)
    parse = ArgumentParser.parse_args

    def parse_and_stop(parser: ArgumentParser, words: Sequence[str] | None = None) -> NoReturn:
        parse(parser, words)
        raise _TakenError

    said = io.StringIO()
    with (
        mock.patch.dict(os.environ, _STORES),
        mock.patch.object(ArgumentParser, "parse_args", parse_and_stop),
        contextlib.redirect_stderr(said),
    ):
        try:
            program.main(arguments)
        except _TakenError:
            return None
        except SystemExit:
            return said.getvalue()
    return f"{module} reads no arguments"


def _refused_by_recommend(arguments: list[str]) -> str | None:
    command = typer.main.get_command(app)
    while hasattr(command, "get_command") and arguments:
        found = command.get_command(None, arguments[0])
        if found is None:
            return f"recommend has no {arguments[0]}"
        command, arguments = found, arguments[1:]
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    unknown = [each for each in arguments if re.match(r"--?[a-z]", each) and each.partition("=")[0] not in options]
    return f"recommend has no {unknown}" if unknown else None
