"""Read replicas follow the latency: up in proportion, down one by one, never within the cooldown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_controller.domain.replicas import ReplicaRule, ReplicaState, decide_replicas

RULE = ReplicaRule(target_ms=5.0, up_above_ms=10.0, down_below_ms=2.0, cooldown_s=300.0, least=2, most=10)


@pytest.mark.parametrize(
    ("replicas", "ready", "latency_ms", "since_s", "wanted", "reason"),
    [
        (3, 3, 5.0, None, 3, "between 2 and 10 ms"),
        (3, 3, 10.0, None, 3, "between 2 and 10 ms"),
        (3, 3, 10.1, None, 5, "above 10 ms"),  # 7 would be in proportion, 2 are added at most
        (9, 9, 40.0, None, 10, "above 10 ms"),
        (10, 10, 40.0, None, 10, "above 10 ms"),
        (3, 2, 40.0, None, 3, "1 replicas are still on their way"),
        (3, 3, 40.0, 299.0, 3, "the last change was 299 s ago"),
        (3, 3, 40.0, 300.0, 5, "above 10 ms"),
        (3, 3, 2.0, None, 3, "between 2 and 10 ms"),
        (3, 3, 1.9, None, 2, "below 2 ms"),
        (2, 2, 0.1, None, 2, "below 2 ms"),
        (3, 3, 1.9, 10.0, 3, "the last change was 10 s ago"),
        (3, 3, None, None, 3, "nobody has measured"),
        (3, 3, float("nan"), None, 3, "nobody has measured"),
        (0, 0, None, None, 2, "there are 2 to 10"),
        (14, 14, 5.0, 1.0, 10, "there are 2 to 10"),
    ],
)
def test_what_is_decided(
    replicas: int, ready: int, latency_ms: float | None, since_s: float | None, wanted: int, reason: str
) -> None:
    decision = decide_replicas(ReplicaState(replicas, ready, latency_ms, since_s), RULE)
    assert decision.replicas == wanted
    assert reason in decision.reason


@given(st.integers(2, 10), st.floats(0, 1e6))
def test_it_stays_within_bounds_and_moves_the_right_way(replicas: int, latency_ms: float) -> None:
    wanted = decide_replicas(ReplicaState(replicas, replicas, latency_ms, None), RULE).replicas
    assert RULE.least <= wanted <= RULE.most
    assert wanted >= replicas or latency_ms < RULE.down_below_ms
    assert wanted <= replicas or latency_ms > RULE.up_above_ms
    assert replicas - 1 <= wanted <= replicas + RULE.most_steps_up
