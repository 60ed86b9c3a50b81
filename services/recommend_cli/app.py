"""The subcommands of `recommend`."""

import typer

from recommend_cli.commands import ask, bench, data, demo, evaluate, models, stack

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
app.command(rich_help_panel="The stack")(demo.demo)
app.add_typer(data.load, name="load", rich_help_panel="Data and models")
app.command(rich_help_panel="Data and models")(models.train)
app.command(rich_help_panel="Data and models")(models.models)
app.command(rich_help_panel="Data and models")(models.activate)
app.command(rich_help_panel="Data and models")(models.rollback)
app.command(rich_help_panel="Recommendations")(ask.for_user)
app.command(rich_help_panel="Recommendations")(ask.similar)
app.command(rich_help_panel="Measuring")(evaluate.evaluate)
app.command(rich_help_panel="Measuring")(bench.bench)
