"""The subcommands of `recommend`, each imported when it is asked for: the others' libraries would cost a second."""

from dataclasses import dataclass
from importlib import import_module
from inspect import cleandoc
from typing import Any, Final

import typer
from typer.core import TyperGroup

_STACK: Final = "The stack"
_DATA: Final = "Data and models"
_LISTS: Final = "Recommendations"
_MEASURES: Final = "Measuring"


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a subcommand is found, and under which heading the help shows it."""

    module: str
    attribute: str
    panel: str


_ENTRIES: Final = {
    "up": _Entry("stack", "up", _STACK),
    "down": _Entry("stack", "down", _STACK),
    "status": _Entry("stack", "status", _STACK),
    "demo": _Entry("demo", "demo", _STACK),
    "migrate": _Entry("migrate", "migrate", _STACK),
    "dlq": _Entry("dlq", "dlq", _STACK),
    "load": _Entry("data", "load", _DATA),
    "train": _Entry("models", "train", _DATA),
    "models": _Entry("models", "models", _DATA),
    "activate": _Entry("models", "activate", _DATA),
    "rollback": _Entry("models", "rollback", _DATA),
    "rebuild": _Entry("rebuild", "rebuild", _DATA),
    "for-user": _Entry("ask", "for_user", _LISTS),
    "similar": _Entry("ask", "similar", _LISTS),
    "evaluate": _Entry("evaluate", "evaluate", _MEASURES),
    "bench": _Entry("bench", "bench", _MEASURES),
}


class _Subcommands(TyperGroup):
    """Finds a subcommand by its entry."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the group's interface
        """Give the names in the order of the help."""
        return list(_ENTRIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the group's interface
        """Import a subcommand."""
        entry = _ENTRIES.get(cmd_name)
        if entry is None:
            return None
        found = getattr(import_module(f"recommend_cli.commands.{entry.module}"), entry.attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command(cmd_name, context_settings=_SETTINGS)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        for each in (command, *getattr(command, "commands", {}).values()):
            each.help = _flowing(each.help)
        command.rich_help_panel = entry.panel  # type: ignore[attr-defined]  # only some kinds of command declare it
        return command


def _flowing(text: str | None) -> str:
    """Join the lines of each paragraph: a docstring's are as long as the code's, which no terminal is."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in cleandoc(text or "").split("\n\n"))


_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Subcommands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings=_SETTINGS,
)


@app.callback()
def _recommend() -> None:
    """Recommendations from your own machine: start the services, load data, train, ask, measure."""
