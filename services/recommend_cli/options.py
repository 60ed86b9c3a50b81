"""The options that several subcommands share."""

from pathlib import Path
from typing import Annotated

import typer

from recommend_cli.stack.stores import StoreKind

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", "-d", envvar="DATA_DIR", help="Folder of the stack's data.", file_okay=False),
]
Port = Annotated[
    int, typer.Option("--port", "-p", help="Port of the REST gateway; 0 takes any free one.", min=0, max=65535)
]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Ask for no API key.")]
CacheDir = Annotated[
    Path,
    typer.Option("--cache-dir", envvar="DATA_CACHE_DIR", help="Where `make data` puts the data sets.", file_okay=False),
]
Limit = Annotated[int, typer.Option("--limit", "-n", help="How many items.", min=1, max=100)]
StoreChoice = Annotated[
    StoreKind,
    typer.Option("--stores", help="Embedded stores need nothing else; servers are those of `make servers`."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="File with the addresses of the stores, see docs/stores.env.", dir_okay=False),
]

DEFAULT_ITEM_TYPE = "item"  # the gateway's too
DEFAULT_CACHE_DIR = Path(".cache/datasets")
