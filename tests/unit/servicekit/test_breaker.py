"""The circuit breaker's three states."""

import pytest
from prometheus_client import REGISTRY

from servicekit.errors import CircuitOpenError
from servicekit.rpc.breaker import CircuitBreaker, CircuitState


class Seconds:
    """A clock of seconds that moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def breaker(clock: Seconds) -> CircuitBreaker:
    return CircuitBreaker("breaker-test", failure_threshold=3, open_s=1.0, clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.before_call()
        breaker.failed()


def state_metric() -> float | None:
    return REGISTRY.get_sample_value("circuit_breaker_state", {"name": "breaker-test"})


def test_it_stays_closed_below_the_threshold(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.before_call()
    assert breaker.state is CircuitState.CLOSED


def test_a_success_forgets_the_failures(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        fail(breaker, 2)
        breaker.before_call()
        breaker.succeeded()
    assert breaker.state is CircuitState.CLOSED


def test_it_opens_at_the_threshold_and_refuses(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    assert breaker.state is CircuitState.OPEN
    assert state_metric() == CircuitState.OPEN
    with pytest.raises(CircuitOpenError, match="breaker-test"):
        breaker.before_call()


def test_one_call_tries_after_a_while(breaker: CircuitBreaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 1.0

    breaker.before_call()

    assert breaker.state is CircuitState.HALF_OPEN
    assert state_metric() == CircuitState.HALF_OPEN
    with pytest.raises(CircuitOpenError):
        breaker.before_call()


def test_a_successful_try_closes_it(breaker: CircuitBreaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 1.0
    breaker.before_call()
    breaker.succeeded()

    assert breaker.state is CircuitState.CLOSED
    assert state_metric() == CircuitState.CLOSED
    fail(breaker, 2)
    breaker.before_call()


def test_a_failed_try_opens_it_again_for_the_whole_time(breaker: CircuitBreaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 1.0
    fail(breaker, 1)

    assert breaker.state is CircuitState.OPEN
    clock.now += 0.9
    with pytest.raises(CircuitOpenError):
        breaker.before_call()
    clock.now += 0.1
    breaker.before_call()


def test_an_abandoned_try_makes_room_for_the_next(breaker: CircuitBreaker, clock: Seconds) -> None:
    fail(breaker, 3)
    clock.now += 1.0
    breaker.before_call()
    breaker.abandoned()

    breaker.before_call()
    breaker.succeeded()
    assert breaker.state is CircuitState.CLOSED


def test_late_failures_of_old_calls_do_not_prolong_it(breaker: CircuitBreaker, clock: Seconds) -> None:
    for _ in range(5):
        breaker.before_call()
    for _ in range(3):
        breaker.failed()
    clock.now += 0.9
    breaker.failed()
    clock.now += 0.1
    breaker.before_call()
    assert breaker.state is CircuitState.HALF_OPEN


def test_openings_are_counted(breaker: CircuitBreaker) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("circuit_breaker_opened_total", {"name": "breaker-test"}) or 0.0

    before = count()
    fail(breaker, 3)
    assert count() == before + 1
