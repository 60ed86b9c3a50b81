"""Reads the declarations of deploy/edge, and does with an answer's headers what the CDN would do."""

import re
from collections.abc import Mapping
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
    name = suffix if suffix == "Ref" else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    raise yaml.YAMLError(f"!{suffix} has more than a word")


_Loader.add_multi_constructor("!", _function)


def template(name: str) -> dict[str, Any]:
    """Read a template of deploy/edge."""
    document: dict[str, Any] = yaml.load(Path(EDGE / name).read_text(), Loader=_Loader)  # noqa: S506 - a safe loader
    return document


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
