"""What the pipeline knows of a user: the recent history and what else counts as seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from servicekit.arrays import Floats, Keys

NO_KEYS: Keys = np.empty(0, np.int64)
NO_FLOATS: Floats = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class UserContext:
    """One user's past. Arrays of one length H, last touched first, but for `seen_keys`.

    Args:
        history_keys: int64[H], distinct item keys.
        history_weights: float32[H], what the user's interactions with each say, signed.
        history_times_ms: int64[H], Unix milliseconds of the last interaction with each.
        seen_keys: int64[S], further keys that must not be recommended.
    """

    history_keys: Keys = field(default_factory=lambda: NO_KEYS)
    history_weights: Floats = field(default_factory=lambda: NO_FLOATS)
    history_times_ms: Keys = field(default_factory=lambda: NO_KEYS)
    seen_keys: Keys = field(default_factory=lambda: NO_KEYS)


NOBODY = UserContext()


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """Something an anonymous visitor did, as the caller tells it; weight is signed."""

    item_key: int
    weight: float
    occurred_at_ms: int


def with_session(context: UserContext, events: Sequence[SessionEvent]) -> UserContext:
    """Put what happened in this session, given in the order it happened, before what is stored.

    An item counts once, where it was last touched, with the sum of its weights in the session.
    """
    if not events:
        return context
    session: dict[int, tuple[float, int]] = {}
    for event in events:
        weight, _ = session.pop(event.item_key, (0.0, 0))
        session[event.item_key] = (weight + event.weight, event.occurred_at_ms)
    keys = np.fromiter(reversed(session), np.int64, len(session))
    told = [session[int(key)] for key in keys]
    older = ~np.isin(context.history_keys, keys)
    return UserContext(
        history_keys=np.concatenate([keys, context.history_keys[older]]),
        history_weights=np.concatenate([np.array([w for w, _ in told], np.float32), context.history_weights[older]]),
        history_times_ms=np.concatenate([np.array([t for _, t in told], np.int64), context.history_times_ms[older]]),
        seen_keys=context.seen_keys,
    )


@dataclass(frozen=True, slots=True)
class InteractionType:
    """How much an interaction says: `weight`, or with a centre `weight * (value - centre)`."""

    name: str
    weight: float
    centre: float | None = None
    counts_as_seen: bool = True

    def weigh(self, value: float | None) -> float:
        """Give the signed weight of one interaction; a missing value says nothing."""
        if self.centre is None:
            return self.weight
        return 0.0 if value is None else self.weight * (value - self.centre)


InteractionTypes = Mapping[str, InteractionType]
"""A tenant's interaction types by name."""
