"""Reads the declarations of deploy/edge, and does with them what the CDN and CloudFormation would do."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import yaml

from deploy_support.builds import ROOT

EDGE: Final = ROOT / "deploy" / "edge"
CACHING_DISABLED: Final = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_BUT_HOST: Final = "b689b0a8-53d0-40ab-baf2-68738e2966ac"
_NOT_KEPT: Final = {"private", "no-store", "no-cache"}


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short functions as `{"Ref": …}` and `{"Fn::Sub": …}`."""


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    raise yaml.YAMLError(f"!{suffix} of a mapping")


_Loader.add_multi_constructor("!", _function)


def template(name: str) -> dict[str, Any]:
    """Read a template of deploy/edge."""
    document: dict[str, Any] = yaml.load(Path(EDGE / name).read_text(), Loader=_Loader)  # noqa: S506 - a safe loader
    return document


_NOTHING: Final = object()


def resources_in(document: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, Any]:
    """Give the resources that a stack of a template has.

    Args:
        document: The template.
        told: Its parameters, and what stands for a region, `AWS::Region` and the like.
    """
    stack = _Stack(document, told)
    return {
        name: stack.made(each)
        for name, each in document["Resources"].items()
        if "Condition" not in each or stack.holds({"Condition": each["Condition"]})
    }


class _Stack:
    """Evaluates what CloudFormation would, as much of it as deploy/edge uses."""

    def __init__(self, document: Mapping[str, Any], told: Mapping[str, str]) -> None:
        defaults = {name: each["Default"] for name, each in document["Parameters"].items() if "Default" in each}
        self._values = {"AWS::Partition": "aws", **defaults, **told}
        self._conditions = document.get("Conditions", {})
        self._conditional: Final[Mapping[str, Callable[[Any], bool]]] = {
            "Condition": lambda name: self.holds(self._conditions[name]),
            "Fn::Equals": lambda pair: bool(self.made(pair[0]) == self.made(pair[1])),
            "Fn::Not": lambda of: not self.holds(of[0]),
            "Fn::And": lambda of: all(map(self.holds, of)),
        }
        self._functions: Final[Mapping[str, Callable[[Any], Any]]] = {
            "Ref": lambda name: _NOTHING if name == "AWS::NoValue" else self._values.get(name, name),
            "Fn::Sub": lambda text: re.sub(r"\$\{([A-Za-z0-9:]+)\}", lambda use: self._values[use.group(1)], text),
            "Fn::GetAtt": str,
            "Fn::If": lambda of: self.made(of[1] if self.holds({"Condition": of[0]}) else of[2]),
        }

    def holds(self, condition: Mapping[str, Any]) -> bool:
        ((function, of),) = condition.items()
        return self._conditional[function](of)

    def made(self, value: Any) -> Any:
        if isinstance(value, dict):
            if len(value) == 1 and (function := next(iter(value))) in self._functions:
                return self._functions[function](value[function])
            return {key: each for key, it in value.items() if (each := self.made(it)) is not _NOTHING}
        if isinstance(value, list):
            return [each for each in map(self.made, value) if each is not _NOTHING]
        return value


@dataclass(frozen=True)
class Verdict:
    """What the CDN does with an answer.

    Args:
        kept_s: For how long it keeps it; 0: not at all, the next request goes through to the gateway.
        key: The parts of the request that it keeps it under.
    """

    kept_s: int
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What a visitor sends."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] | None = None


class Cdn:
    """The rules of a distribution."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._resources = document["Resources"]
        (self.distribution,) = [
            each["Properties"]["DistributionConfig"]
            for each in self._resources.values()
            if each["Type"] == "AWS::CloudFront::Distribution"
        ]

    def behaviour(self, path: str) -> dict[str, Any]:
        """Give the first rule whose pattern a path matches, otherwise the default."""
        for each in self.distribution["CacheBehaviors"]:
            if fnmatchcase(path, each["PathPattern"]):
                return dict(each)
        return dict(self.distribution["DefaultCacheBehavior"])

    def policy(self, behaviour: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give how a rule keeps answers; None where it keeps none."""
        wanted = behaviour["CachePolicyId"]
        if wanted == CACHING_DISABLED:
            return None
        policy: dict[str, Any] = self._resources[wanted["Ref"]]["Properties"]["CachePolicyConfig"]
        return policy

    def judge(self, request: Request, *, status: int, headers: Mapping[str, str]) -> Verdict:
        """Say what becomes of an answer.

        Raises:
            ValueError: It would be kept under less than `Vary` asks for.
        """
        behaviour = self.behaviour(request.path)
        policy = self.policy(behaviour)
        if policy is None or request.method not in behaviour["CachedMethods"]:
            return Verdict(0)
        if status >= 400:
            return Verdict(self._kept_errors(status))
        kept_s = _kept_s(policy, headers.get("cache-control", ""))
        if kept_s == 0:
            return Verdict(0)
        parts = policy["ParametersInCacheKeyAndForwardedToOrigin"]
        in_key = {each.lower() for each in parts["HeadersConfig"].get("Headers", [])}
        vary = {each.strip().lower() for each in headers.get("vary", "").split(",") if each.strip()}
        if missing := vary - in_key - {"accept-encoding"}:
            raise ValueError(f"{request.path} is kept without {sorted(missing)}, which it varies by")
        sent = {name.lower(): value for name, value in (request.headers or {}).items()}
        key = [request.path, *(f"{name}={sent.get(name, '')}" for name in sorted(in_key))]
        if parts["QueryStringsConfig"]["QueryStringBehavior"] == "all":
            key.append(request.query)
        if parts["CookiesConfig"]["CookieBehavior"] != "none":
            key.append(sent.get("cookie", ""))
        return Verdict(kept_s, tuple(key))

    def _kept_errors(self, status: int) -> int:
        said = {each["ErrorCode"]: each["ErrorCachingMinTTL"] for each in self.distribution["CustomErrorResponses"]}
        kept_anyway = {400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504}
        return int(said.get(status, 10 if status in kept_anyway else 0))


def _kept_s(policy: Mapping[str, Any], cache_control: str) -> int:
    directives = {each.strip().lower() for each in cache_control.split(",") if each.strip()}
    if directives & _NOT_KEPT:
        return int(policy["MinTTL"])
    ages = {name: int(value) for name, value in re.findall(r"(s-maxage|max-age)=(\d+)", cache_control)}
    if not ages:
        return int(policy["DefaultTTL"])
    said = ages.get("s-maxage", ages.get("max-age", 0))
    return int(min(max(said, policy["MinTTL"]), policy["MaxTTL"]))
