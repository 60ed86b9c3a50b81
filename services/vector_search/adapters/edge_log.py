"""Brings what qdrant-edge has written into a shard's log to the disk, without holding up the interpreter.

The engine enters each update into a memory-mapped log before it applies it, and applies the log again when it opens the
shard: so an update survives the death of the process at once, and a loss of power once the log's files are on the disk.
The engine's own `flush` brings these there as well, but together with all other files of the shard: that takes 10 to
60 ms, during which it holds the GIL. Its use is to shorten the log.
"""

from pathlib import Path

from servicekit.errors import UnavailableError
from servicekit.folders import bring_to_disk


def bring_log_to_disk(folder: Path) -> None:
    """Return when all updates that the shard in `folder` has returned from outlive a loss of power; blocking.

    Raises:
        UnavailableError: The disk failed, or somebody has removed the folder.
    """
    log = folder / "shard" / "wal"
    try:
        while not _bring_files(log):
            pass
    except OSError as error:
        raise UnavailableError(f"the vectors in {folder} cannot be brought to the disk: {error}") from error


def _bring_files(log: Path) -> bool:
    """Bring the log's files to the disk; False when the engine has renamed or removed one of them meanwhile."""
    for file in [*log.iterdir(), log]:
        try:
            bring_to_disk(file)
        except FileNotFoundError:
            return False
    return True
