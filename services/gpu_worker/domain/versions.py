"""Model versions: their names, which one serves, and when one may."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Manifest = Mapping[str, Any]
"""A version's manifest.json."""

METRIC = "NDCG@10"
_HISTORY = 3


@dataclass(frozen=True, slots=True)
class Active:
    """The version that serves and those that served before it, the last one first; empty when none does."""

    version: str = ""
    history: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Active":
        """Read what `active.json` says; an empty document is that of a tenant without an active version."""
        return cls(content.get("version", ""), tuple(content.get("history", ())))

    def as_json(self) -> dict[str, Any]:
        """Write it as it stands in `active.json`."""
        previous = self.history[0] if self.history else ""
        return {"version": self.version, "previous": previous, "history": list(self.history)}

    def followed_by(self, version: str) -> "Active":
        """Give what is active after an activation."""
        if version == self.version or not self.version:
            return Active(version, self.history)
        earlier = tuple(old for old in self.history if old != version)
        return Active(version, (self.version, *earlier)[:_HISTORY])

    def rolled_back(self) -> "Active":
        """Give what is active after going back to the version before."""
        return Active(self.history[0], self.history[1:])


def name_version(now_ms: int, token: str) -> str:
    """Name a version so that names sort by time; the token of 8 hex digits tells apart those of one second."""
    return f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S}-{token}"


def find_fault(candidate: Manifest, active: Manifest | None) -> str:
    """Say why a version may not serve; empty when it may.

    It must be no worse than popularity on the same users of the same hold-out, without any allowance. Against the
    active version each is taken on the hold-out of its own training, because judging the active one on the
    candidate's hold-out would show it interactions that it has learned from; so they are compared only when the
    hold-outs were drawn alike, and the candidate may fall short by two standard errors of the difference.
    """
    metrics = candidate["metrics"]
    mine, popularity = metrics["blend"][METRIC], metrics["popularity"][METRIC]
    if mine < popularity:
        return f"its {METRIC} of {mine:.4f} is worse than the {popularity:.4f} of popularity on the same users"
    if active is None or active["hold_out"] != candidate["hold_out"]:
        return ""
    theirs = active["metrics"]["blend"][METRIC]
    error = math.hypot(*(side["report"]["standard_errors"][METRIC] for side in (candidate, active)))
    if mine < theirs - 2 * error:
        return (
            f"its {METRIC} of {mine:.4f} is worse than the {theirs:.4f} of the active version {active['version']},"
            f" by more than two standard errors ({2 * error:.4f})"
        )
    return ""
