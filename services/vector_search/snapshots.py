"""Snapshots of the dense vectors, for people: `python -m vector_search.snapshots create|list|restore|delete`.

Reads the service's own settings; needs VECTOR_STORE_URL, and to restore also QDRANT_REST_PORT.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from urllib.parse import urlsplit

from servicekit.command import run_command
from servicekit.settings import BAD_SETTINGS_EXIT_CODE, load_settings
from vector_search.adapters.qdrant_connection import QdrantConnection, connect
from vector_search.adapters.qdrant_snapshots import QdrantSnapshots, Snapshot
from vector_search.settings import VectorSearchSettings

_TIMEOUT_S = 600.0


async def execute(wanted: Namespace, snapshots: QdrantSnapshots) -> Sequence[Snapshot]:
    """Do what is wanted, and give the snapshots to tell of."""
    collections = [wanted.collection] if wanted.collection else await snapshots.collections()
    match wanted.action:
        case "create":
            return [await snapshots.create(each) for each in collections]
        case "list":
            return [found for each in collections for found in await snapshots.list(each)]
        case "restore":
            await snapshots.restore(wanted.collection, wanted.snapshot)
        case "delete":
            await snapshots.delete(wanted.collection, wanted.snapshot)
    return ()


async def run(wanted: Namespace, settings: VectorSearchSettings) -> None:
    """Connect, do what is wanted and print what came of it."""
    client = connect(
        settings.vector_store_url,
        api_key=settings.qdrant_api_key.get_secret_value(),
        rest_port=settings.qdrant_rest_port,
        timeout_s=_TIMEOUT_S,
    )
    parts = urlsplit(settings.vector_store_url)
    scheme = "https" if parts.scheme == "qdrants" else "http"
    connection = QdrantConnection(client, timeout_s=_TIMEOUT_S)
    snapshots = QdrantSnapshots(
        connection,
        prefix=settings.qdrant_prefix,
        rest_url=wanted.server_url or f"{scheme}://{parts.hostname}:{settings.qdrant_rest_port}",
        api_key=settings.qdrant_api_key.get_secret_value(),
    )
    try:
        for each in await execute(wanted, snapshots):
            sys.stdout.write(f"{each.collection}\t{each.name}\t{each.size}\t{each.created_at}\n")
    finally:
        await connection.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, do it, and give the exit code."""
    parser = ArgumentParser(description=__doc__)
    parser.set_defaults(collection="", server_url="")
    actions = parser.add_subparsers(dest="action", required=True)
    for action, what in (("create", "make a snapshot"), ("list", "list the snapshots")):
        each = actions.add_parser(action, help=f"{what} of one collection, or of all of ours")
        each.add_argument("collection", nargs="?", default="", help="the collection's name in Qdrant")
    for action, what in (("restore", "put a collection back into a snapshot's state"), ("delete", "remove a snapshot")):
        each = actions.add_parser(action, help=what)
        each.add_argument("collection", help="the collection's name in Qdrant")
        each.add_argument("snapshot", help="the snapshot's name, as `list` prints it")
        if action == "restore":
            each.add_argument(
                "--server-url", default="", help="where Qdrant reaches its own HTTP port, if not as we do"
            )
    wanted = parser.parse_args(arguments)
    settings = load_settings(VectorSearchSettings)
    if not settings.vector_store_url:
        sys.stderr.write("VECTOR_STORE_URL is not set: the embedded vectors have no snapshots, copy the data folder\n")
        return BAD_SETTINGS_EXIT_CODE
    return run_command(run(wanted, settings))


if __name__ == "__main__":
    sys.exit(main())
