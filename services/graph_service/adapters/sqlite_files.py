"""Which of two SQLite files holds the graph that serves: while it is rebuilt into the other one, a third file tells."""

from pathlib import Path

from servicekit.folders import replace_file


class GraphFiles:
    """The files of one graph; what a rebuild that was broken off has left is removed.

    Args:
        path: The first file of the two, which serves unless `<name>.serving` names the other.
    """

    def __init__(self, path: Path) -> None:
        self._both = (path, path.with_name(f"{path.stem}-2{path.suffix}"))
        self._pointer = path.with_suffix(".serving")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.discard_idle()

    @property
    def serving(self) -> Path:
        """The file that serves."""
        named = self._pointer.read_text() if self._pointer.exists() else ""
        return self._both[named == self._both[1].name]

    @property
    def idle(self) -> Path:
        """The other one."""
        return self._both[self.serving == self._both[0]]

    def switch(self) -> None:
        """Let the idle file serve, in one step that survives a power cut."""
        replace_file(self._pointer, self.idle.name)

    def discard_idle(self) -> None:
        """Remove what does not serve; nobody may have it open."""
        for suffix in ("", "-wal", "-shm"):
            self.idle.with_name(self.idle.name + suffix).unlink(missing_ok=True)
