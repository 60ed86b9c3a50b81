"""How queries are routed, repeated and hedged: the one place where it is said.

Every statement of ours is idempotent (states and interactions carry their own write timestamps; there is no counter
and no list to append to), so every one may be sent twice. The exceptions are the conditional statements of agents'
policies and of the migrations' lock, which are never repeated by the driver.
"""

from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import ExecutionProfile
from cassandra.policies import (
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.query import tuple_factory

READ, WRITE, CONDITIONAL = "read", "write", "conditional"

_RETRIES = 1
_Decision = tuple[Any, Any]


class OneMoreTryPolicy(RetryPolicy):  # type: ignore[misc]  # the driver ships no types
    """One more try where it can help: on the same node after a timeout, on the next when this one cannot do it."""

    def on_read_timeout(self, query: Any, *_: Any, retry_num: int, **__: Any) -> _Decision:
        """Ask once more; the replicas that were slow may have answered by now."""
        return self._again(self.RETRY, query, retry_num)

    def on_write_timeout(self, query: Any, *_: Any, retry_num: int, **__: Any) -> _Decision:
        """Write once more what may or may not be written."""
        return self._again(self.RETRY, query, retry_num)

    def on_unavailable(self, query: Any, *_: Any, retry_num: int, **__: Any) -> _Decision:
        """Ask another coordinator, who may see more replicas."""
        return self._again(self.RETRY_NEXT_HOST, query, retry_num)

    def on_request_error(self, query: Any, *_: Any, retry_num: int, **__: Any) -> _Decision:
        """Ask another coordinator: this one is overloaded, starting or gone."""
        return self._again(self.RETRY_NEXT_HOST, query, retry_num)

    def _again(self, how: Any, query: Any, retry_num: int) -> _Decision:
        return (how, None) if query.is_idempotent and retry_num < _RETRIES else (self.RETHROW, None)


def execution_profiles(*, datacenter: str, timeout_s: float, speculative_delay_s: float) -> dict[str, ExecutionProfile]:
    """Give the profiles by name.

    Args:
        datacenter: Whose nodes are asked; empty: that of the contact points.
        timeout_s: How long the client waits for a query when its caller sets no shorter deadline.
        speculative_delay_s: After so long without an answer a read is also sent to the next replica; 0: never.
    """
    nearest = TokenAwarePolicy(DCAwareRoundRobinPolicy(datacenter or None), shuffle_replicas=True)

    def profile(**more: Any) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=nearest,
            retry_policy=OneMoreTryPolicy(),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
            request_timeout=timeout_s,
            row_factory=tuple_factory,
            **more,
        )

    hedged = (
        {"speculative_execution_policy": ConstantSpeculativeExecutionPolicy(speculative_delay_s, 1)}
        if speculative_delay_s
        else {}
    )
    return {READ: profile(**hedged), WRITE: profile(), CONDITIONAL: profile()}
