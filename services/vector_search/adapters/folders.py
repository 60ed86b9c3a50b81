"""Folders of local state: safe names, and files that are whole or not there."""

import os
from pathlib import Path
from urllib.parse import quote


def folder_name(tenant: str) -> str:
    """Give the folder name of a tenant: itself where it is a plain word."""
    name = quote(tenant, safe="")
    return name.replace(".", "%2E") if not tenant.strip(".") else name


def replace_file(path: Path, content: str) -> None:
    """Write a file so that it has either its old or its new content, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
