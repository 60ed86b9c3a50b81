"""The subcommands of `recommend`."""

import typer

from recommend_cli.commands import stack

app = typer.Typer(
    help="Recommendations from your own machine: start the services, load data, train, ask, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel="The stack")(stack.up)
app.command(rich_help_panel="The stack")(stack.down)
app.command(rich_help_panel="The stack")(stack.status)
