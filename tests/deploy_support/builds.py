"""Builds the kustomizations, and finds objects in what comes out."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
K8S: Final = ROOT / "deploy" / "k8s"
NAMESPACE: Final = "recommendation"
REGIONS: Final = ("us-east-1", "eu-west-1", "ap-southeast-1")
OVERLAYS: Final = ("laptop", "staging", "production", *REGIONS)
EXAMPLES: Final = "base, stores and example secrets"
"""Everything with secrets that stand in a file: no overlay is like that, it is for trying things out."""
WHOLE: Final = (*OVERLAYS, EXAMPLES)
"""What lacks nothing, so that every reference in it must resolve."""
PARTS: Final = ("base", "stores")
CLUSTER: Final = "cluster"
"""What a cluster has once, outside our namespace."""
ROLLOUTS: Final = tuple(f"rollouts/{name}" for name in ("production", *REGIONS))
"""The overlays as they are applied by hand."""
AGENT: Final = "examples/agent"
_PINNED_TOOL: Final = ROOT / ".cache" / "tools" / "kustomize"

Manifest = dict[str, Any]


def kustomize() -> tuple[str, ...]:
    """Give the command that builds: the pinned kustomize of `make kustomize`, or the one inside kubectl."""
    if _PINNED_TOOL.exists():
        return (str(_PINNED_TOOL), "build")
    if found := shutil.which("kustomize"):
        return (found, "build")
    if found := shutil.which("kubectl"):
        return (found, "kustomize")
    raise RuntimeError("there is neither kubectl nor kustomize: run `make kustomize`")


@dataclass(frozen=True)
class Build:
    """The objects of one build, in its order."""

    name: str
    objects: tuple[Manifest, ...]

    def all(self, *kinds: str) -> list[Manifest]:
        """Give the objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def names(self, *kinds: str) -> set[str]:
        """Give their names."""
        return {each["metadata"]["name"] for each in self.all(*kinds)}

    def get(self, kind: str, name: str) -> Manifest:
        """Give one object; generated ConfigMaps are found by their name without the hash.

        Raises:
            LookupError: There is none, or several.
        """
        found = [each for each in self.all(kind) if each["metadata"]["name"] == name] or [
            each for each in self.all(kind) if each["metadata"]["name"].rpartition("-")[0] == name
        ]
        if len(found) != 1:
            raise LookupError(f"{self.name} has {len(found)} {kind} {name}")
        return found[0]


@functools.cache
def build(name: str) -> Build:
    """Build an overlay, a part, or the whole with example secrets; done once in a process."""
    if name == EXAMPLES:
        return _build_examples()
    folder = K8S / "overlays" / name if name in OVERLAYS else K8S / name
    return Build(name, _run(folder))


def with_an_agent(name: str) -> Build:
    """Give an overlay with the example of an agent beside it."""
    return Build(f"{name} with an agent", (*build(name).objects, *build(AGENT).objects))


def _build_examples() -> Build:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()

        def relative(path: str) -> str:
            return os.path.relpath(K8S / path, here)

        document = {
            "resources": [relative("base"), relative("stores")],
            "components": [relative("components/example-secrets"), relative("components/storage-aws")],
            "namespace": NAMESPACE,
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(document))
        return Build(EXAMPLES, _run(here))


def _run(folder: Path) -> tuple[Manifest, ...]:
    done = subprocess.run([*kustomize(), str(folder)], capture_output=True, text=True, check=False, timeout=110)
    if done.returncode:
        raise RuntimeError(f"{folder}: {done.stderr}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(each for each in yaml.load_all(done.stdout, Loader=loader) if each)


def texts(value: object) -> Iterator[str]:
    """Give every string below a value, keys of mappings left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from texts(each)


def named(manifest: Manifest) -> str:
    """Say which object it is."""
    return f"{manifest['kind']} {manifest['metadata']['name']}"
