# ruff: noqa: INP001 - a script, no part of a package
"""Generates the Python bindings of all protos in one protoc run, atomically, into protos/gen."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
TARGET = PROTOS / "gen"


def is_current(sources: list[Path]) -> bool:
    """Tell whether every binding is there and none is older than a proto or this script."""
    outputs = [TARGET / source.relative_to(PROTOS).with_name(f"{source.stem}_pb2.py") for source in sources]
    if not outputs or not all(output.exists() for output in outputs):
        return False
    newest_input = max(path.stat().st_mtime for path in [*sources, Path(__file__)])
    return min(output.stat().st_mtime for output in outputs) >= newest_input


def main() -> None:
    """Generate beside the old bindings, then swap the folders: nobody sees half a set."""
    sources = sorted((PROTOS / "recommendation").rglob("*.proto"))
    if is_current(sources):
        return
    binaries = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(dir=PROTOS, prefix=".gen-") as scratch:
        fresh, stale = Path(scratch, "fresh"), Path(scratch, "stale")
        fresh.mkdir()
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}",
            f"--plugin=protoc-gen-mypy={binaries / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={binaries / 'protoc-gen-mypy_grpc'}",
            f"--python_out={fresh}", f"--grpc_python_out={fresh}",
            f"--mypy_out=quiet:{fresh}", f"--mypy_grpc_out=quiet,only_async:{fresh}",
            *map(str, sources),
        ]  # fmt: skip
        subprocess.run(command, check=True)  # noqa: S603 - our own arguments
        if TARGET.exists():
            TARGET.rename(stale)
        fresh.rename(TARGET)
        shutil.rmtree(stale, ignore_errors=True)


if __name__ == "__main__":
    main()
