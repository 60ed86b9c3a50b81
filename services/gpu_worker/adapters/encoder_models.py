"""Finds the models of sentence-transformers in a folder, without loading them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from servicekit.errors import StartupError

_WEIGHTS = (".safetensors", ".bin")
_DEPTH = 4  # as deep as the folders that the model hub's tools make


def find_models(root: Path) -> Sequence[Path]:
    """Give the folders of models at or below a folder, sorted."""
    return sorted(_find(root, _DEPTH)) if root.is_dir() else []


def choose_model(root: Path, name: str) -> Path | None:
    """Give the folder of the model to use: the named one, or the only one; None when nothing is named or there.

    Args:
        root: Where models lie.
        name: The path of one below `root`; empty takes the only one.

    Raises:
        StartupError: The named one is not there, or none is named and there are several.
    """
    models = find_models(root)
    if name:
        if root / name not in models:
            raise StartupError(
                f"ENCODER_MODEL is {name!r}, and {root} has no such model; it has {_listed(root, models)}"
            )
        return root / name
    if len(models) > 1:
        raise StartupError(f"{root} has several models; set ENCODER_MODEL to one of {_listed(root, models)}")
    return models[0] if models else None


def _find(folder: Path, depth: int) -> Iterator[Path]:
    if _is_model(folder):
        yield folder
    elif depth:
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.name.startswith("."):
                yield from _find(inner, depth - 1)


def _is_model(folder: Path) -> bool:
    """Tell whether a folder is a model of sentence-transformers, or a plain one of transformers with its weights."""
    if (folder / "modules.json").is_file():
        return True
    return (folder / "config.json").is_file() and any(path.suffix in _WEIGHTS for path in folder.iterdir())


def _listed(root: Path, models: Sequence[Path]) -> str:
    return ", ".join(str(path.relative_to(root)) for path in models) or "none"
