"""How many read replicas the graph needs: a proportional rule with a dead band and a cooldown."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaRule:
    """When replicas come and go; latencies in milliseconds, times in seconds."""

    target_ms: float = 5.0
    up_above_ms: float = 10.0
    down_below_ms: float = 2.0
    cooldown_s: float = 300.0
    least: int = 2
    most: int = 10
    most_steps_up: int = 2


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What is seen.

    Args:
        replicas: How many there are to be now.
        ready: How many of them answer.
        latency_ms: The 99th percentile; None when nobody has measured it.
        since_change_s: Seconds since their number was changed; None when it never was.
    """

    replicas: int
    ready: int
    latency_ms: float | None
    since_change_s: float | None


@dataclass(frozen=True, slots=True)
class ReplicaDecision:
    """How many there should be, and why."""

    replicas: int
    reason: str


def decide_replicas(state: ReplicaState, rule: ReplicaRule) -> ReplicaDecision:
    """Decide.

    Up goes in proportion to the latency, as the horizontal autoscaler does, but a few at a time; down goes one by one.
    """
    bounded = min(max(state.replicas, rule.least), rule.most)
    if bounded != state.replicas:
        return ReplicaDecision(bounded, f"there are {rule.least} to {rule.most}")
    if state.latency_ms is None or not math.isfinite(state.latency_ms):
        return ReplicaDecision(bounded, "nobody has measured the latency")
    if state.since_change_s is not None and state.since_change_s < rule.cooldown_s:
        waited = f"the last change was {state.since_change_s:.0f} s ago"
        return ReplicaDecision(bounded, f"{waited}, the cooldown is {rule.cooldown_s:.0f} s")
    return _by_latency(state, state.latency_ms, rule)


def _by_latency(state: ReplicaState, latency_ms: float, rule: ReplicaRule) -> ReplicaDecision:
    told = f"p99 is {latency_ms:.1f} ms"
    if latency_ms > rule.up_above_ms:
        if state.ready < state.replicas:
            return ReplicaDecision(
                state.replicas, f"{told}, and {state.replicas - state.ready} replicas are still on their way"
            )
        wanted = math.ceil(state.replicas * latency_ms / rule.target_ms)
        more = min(max(wanted, state.replicas + 1), state.replicas + rule.most_steps_up, rule.most)
        return ReplicaDecision(more, f"{told}, above {rule.up_above_ms:g} ms")
    if latency_ms < rule.down_below_ms:
        return ReplicaDecision(max(state.replicas - 1, rule.least), f"{told}, below {rule.down_below_ms:g} ms")
    return ReplicaDecision(state.replicas, f"{told}, between {rule.down_below_ms:g} and {rule.up_above_ms:g} ms")
