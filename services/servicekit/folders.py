"""Folders that several processes share: what they are called, and how files get there whole."""

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from servicekit.errors import StartupError


def folder_name(name: str) -> str:
    """Give the folder of a tenant, or of whatever has a name: itself where it is a plain word."""
    quoted = quote(name, safe="")
    return quoted.replace(".", "%2E") if not name.strip(".") else quoted


def name_of_folder(folder: str) -> str:
    """Give the name whose folder this is."""
    return unquote(folder)


def folder_of_url(url: str, *, setting: str) -> Path:
    """Give the folder of `file:///ABSOLUTE_FOLDER`.

    Args:
        url: The address.
        setting: Which setting it is, for whoever has to correct it; one that takes buckets as well.

    Raises:
        StartupError: It is another kind of URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        raise StartupError(f"{setting} is {url!r}: write file:///ABSOLUTE_FOLDER or s3://BUCKET/PREFIX")
    return Path(unquote(parts.path))


def replace_file(path: Path, content: str) -> None:
    """Write a file so that it has either its old or its new content, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(content, encoding="utf-8")
    bring_to_disk(fresh)
    fresh.replace(path)
    bring_to_disk(path.parent)


def bring_to_disk(path: Path) -> None:
    """Return when a file's content or a folder's entries outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
