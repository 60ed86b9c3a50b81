"""Files of local state that are whole or not there."""

import os
from pathlib import Path


def replace_file(path: Path, content: str) -> None:
    """Write a file so that it has either its old or its new content, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
