"""Folders of local state: safe names, and no half-written ones."""

import os
import shutil
from pathlib import Path
from urllib.parse import quote


def folder_name(tenant: str) -> str:
    """Give the folder name of a tenant: itself where it is a plain word."""
    name = quote(tenant, safe="")
    return name.replace(".", "%2E", 1) if name.startswith(".") else name


def sweep(folder: Path, prefix: str) -> None:
    """Remove what was half written when a process died: every tenant's folders that begin with the prefix."""
    for leftover in folder.glob(f"*/{prefix}*"):
        shutil.rmtree(leftover)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that it has either its old or its new content, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
