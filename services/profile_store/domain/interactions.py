"""What users did, and how much each kind of deed says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profile_store.domain.checks import MAX_AHEAD_MS, check_id, check_not_future
from profile_store.domain.items import MAX_ID, MAX_ITEM_TYPE, MAX_TENANT
from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError

MAX_EVENT_ID = 64
MAX_WEIGHT = 100.0
MAX_VALUE = 1e6
"""The largest value and centre; it keeps every weight and every sum of weights finite."""
_TYPE_NAME = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class InteractionType:
    """How much an interaction says, and in which direction.

    Args:
        name: 1 to 64 characters of a-z, 0-9 and _.
        weight: The signed weight of one interaction; with a centre, of one unit above it.
        centre: When given, the interaction needs a value and weighs `weight * (value - centre)`.
        counts_as_seen: Whether an item so touched is left out of recommendations from then on.
    """

    name: str
    weight: float
    centre: float | None = None
    counts_as_seen: bool = True

    def weigh(self, value: float | None) -> float:
        """Give the signed weight of one interaction; a value that the type does not need is ignored."""
        if self.centre is None:
            return self.weight
        # A missing value cannot be stored under a type with a centre, but the centre may have been set afterwards:
        # such an interaction says nothing.
        return 0.0 if value is None else self.weight * (value - self.centre)


BUILT_IN_TYPES: Mapping[str, InteractionType] = {
    kind.name: kind
    for kind in (
        InteractionType("view", 1.0),
        InteractionType("like", 2.0),
        InteractionType("add_to_cart", 3.0),
        InteractionType("purchase", 5.0),
        # Five stars weigh +2.5, three +0.5, two -0.5, one -1.5: a rating below the middle counts against the item.
        InteractionType("rating", 1.0, centre=2.5),
    )
}
"""What every tenant has from the start and may replace."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """One thing a user did; the item need not exist yet."""

    event_id: str
    tenant: str
    user_id: str
    item_type: str
    item_id: str
    interaction_type: str
    value: float | None
    occurred_at_ms: int


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where an interaction stands in its user's history: by time, then by order of arrival."""

    occurred_at_ms: int
    arrival: int


@dataclass(frozen=True, slots=True)
class StoredInteraction:
    """An interaction with its place in the history."""

    interaction: Interaction
    arrival: int

    @property
    def position(self) -> Position:
        """Its place."""
        return Position(self.interaction.occurred_at_ms, self.arrival)


@dataclass(frozen=True, slots=True, order=True)
class ExportPosition:
    """Where an interaction stands in a tenant's export: by user key, time and order of arrival."""

    user_key: int
    occurred_at_ms: int
    arrival: int


@dataclass(frozen=True, slots=True, eq=False)
class InteractionColumns:
    """A page of a tenant's interactions as columns of one length, and where the page ends; None on the last page."""

    user_keys: Keys
    item_keys: Keys
    weights: Floats
    times_ms: Keys
    end: ExportPosition | None


@dataclass(frozen=True, slots=True)
class UserCount:
    """A user and how many interactions of the user are stored."""

    user_id: str
    interaction_count: int


def check_user(tenant: str, user_id: str) -> None:
    """Refuse a user's identity that breaks the limits.

    Raises:
        InvalidArgumentError: Names the field.
    """
    check_id(tenant, "tenant", MAX_TENANT)
    check_id(user_id, "user_id", MAX_ID)


def check_interaction(interaction: Interaction, kind: InteractionType | None, *, now_ms: int) -> None:
    """Refuse an interaction that breaks the limits or whose type does not exist or lacks its value.

    A value that the type does not need is kept as it is, so that the type may be given a centre later.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if not (
        0 < len(interaction.event_id) <= MAX_EVENT_ID
        and 0 < len(interaction.tenant) <= MAX_TENANT
        and 0 < len(interaction.user_id) <= MAX_ID
        and 0 < len(interaction.item_type) <= MAX_ITEM_TYPE
        and 0 < len(interaction.item_id) <= MAX_ID
        and 0 < interaction.occurred_at_ms <= now_ms + MAX_AHEAD_MS
    ):
        _refuse(interaction, now_ms)
    if kind is None:
        raise InvalidArgumentError(
            f"there is no interaction type {interaction.interaction_type!r}; create it first", field="interaction_type"
        )
    value = interaction.value
    if value is None:
        if kind.centre is not None:
            raise InvalidArgumentError(f"{kind.name!r} needs a value", field="value")
    elif not abs(value) <= MAX_VALUE:
        raise InvalidArgumentError(f"value {value} is not a number from -1e6 to 1e6", field="value")


def _refuse(interaction: Interaction, now_ms: int) -> None:
    check_id(interaction.event_id, "event_id", MAX_EVENT_ID)
    check_user(interaction.tenant, interaction.user_id)
    check_id(interaction.item_type, "item_type", MAX_ITEM_TYPE)
    check_id(interaction.item_id, "item_id", MAX_ID)
    check_not_future(interaction.occurred_at_ms, "occurred_at_ms", now_ms)


def check_interaction_type(kind: InteractionType, *, path: str = "") -> None:
    """Refuse a type that breaks the limits; `path` goes before the field's name.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if _TYPE_NAME.fullmatch(kind.name) is None:
        raise InvalidArgumentError(
            f"{path}name {kind.name[:80]!r} is not 1 to 64 characters of a-z, 0-9 and _", field=f"{path}name"
        )
    if not abs(kind.weight) <= MAX_WEIGHT:
        raise InvalidArgumentError(
            f"{path}weight must lie between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}, not {kind.weight}",
            field=f"{path}weight",
        )
    if kind.centre is not None and not abs(kind.centre) <= MAX_VALUE:
        raise InvalidArgumentError(
            f"{path}centre {kind.centre} is not a number from -1e6 to 1e6", field=f"{path}centre"
        )


def weigh_columns(
    kinds: Mapping[int, InteractionType], type_numbers: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Give the signed weights of many interactions.

    Args:
        kinds: The types by number.
        type_numbers: int64[n], each interaction's type; all of them in `kinds`.
        values: float64[n], NaN where an interaction has none.

    Returns:
        float64[n], what InteractionType.weigh gives for each.
    """
    size = max(kinds, default=0) + 1
    weight, centre, centred = np.zeros(size), np.zeros(size), np.zeros(size, dtype=bool)
    for number, kind in kinds.items():
        weight[number] = kind.weight
        centred[number] = kind.centre is not None
        centre[number] = kind.centre or 0.0
    weights = weight[type_numbers]
    with_centre = centred[type_numbers]
    shifted = np.nan_to_num(weights * (values - centre[type_numbers]), nan=0.0)
    return np.where(with_centre, shifted, weights)
