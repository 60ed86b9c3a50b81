"""The interaction types of each tenant, kept for a while."""

import time
from collections.abc import Sequence

from hot_path_api.domain.ports import Interactions
from hot_path_api.domain.users import InteractionType, InteractionTypes
from servicekit.errors import InvalidArgumentError, ServiceError

_FRESH_S = 30.0
# A type that is not known may have been made elsewhere a moment ago, so it is looked for again, but not each time.
_LOOK_AGAIN_S = 1.0


class KnownInteractionTypes:
    """Looks types up; an unknown one is asked for again before it is refused.

    While the store does not answer, what was known last stays valid.
    """

    def __init__(self, interactions: Interactions, *, timeout_s: float) -> None:
        self._interactions = interactions
        self._timeout_s = timeout_s
        self._known: dict[str, tuple[float, InteractionTypes]] = {}

    async def all(self, tenant: str, *, fresher_than_s: float = _FRESH_S) -> InteractionTypes:
        """Give all types of a tenant.

        Raises:
            ServiceError: The store does not answer and never did.
        """
        kept = self._known.get(tenant)
        if kept is not None and time.monotonic() - kept[0] < fresher_than_s:
            return kept[1]
        try:
            types = await self._interactions.interaction_types(tenant, timeout_s=self._timeout_s)
        except ServiceError:
            if kept is None:
                raise
            return kept[1]
        self._known[tenant] = (time.monotonic(), types)
        return types

    async def with_names(self, tenant: str, names: frozenset[str]) -> InteractionTypes:
        """Give all types, after another look when one of these names is not among them."""
        types = await self.all(tenant)
        if not names <= types.keys():
            types = await self.all(tenant, fresher_than_s=_LOOK_AGAIN_S)
        return types

    async def put(self, tenant: str, types: Sequence[InteractionType]) -> None:
        """Create or replace types."""
        await self._interactions.put_interaction_types(tenant, types, timeout_s=self._timeout_s)
        self._known.pop(tenant, None)


def check(types: InteractionTypes, name: str, value: float | None) -> InteractionType:
    """Give the type of an interaction that may be stored.

    Raises:
        InvalidArgumentError: There is no such type, or it needs a value; names the field.
    """
    kind = types.get(name)
    if kind is None:
        raise InvalidArgumentError(
            f"there is no interaction type {name!r}; PUT /api/v1/interaction-types makes one, and there are: "
            + ", ".join(sorted(types)),
            field="interaction_type",
        )
    if kind.centre is not None and value is None:
        raise InvalidArgumentError(f"an interaction of type {name!r} needs a value", field="value")
    return kind
