"""What travels over REST, as pydantic models: they check what comes in and document what goes out."""

import math
from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainValidator,
    Strict,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema

from hot_path_api.domain.popularity import Window
from hot_path_api.domain.recommendations import MAX_LIMIT, Algorithm
from servicekit.filters import AttributeValue

DEFAULT_ITEM_TYPE = "item"
MAX_BULK = 10_000
_MAX_ATTRIBUTES = 100
_MAX_TEXT_CHARACTERS = 10_000
_MAX_LIST_LENGTH = 1_000
_MAX_LIST_TEXT_CHARACTERS = 1_000
_LARGEST_EXACT = 2**53
MAX_NUMBER = 1e6
"""The largest value of an interaction, and weight of a source: sums of them stay far from overflowing."""
_YEAR_10000 = 253_402_300_800
_MAX_ITEM_CHARACTERS = 250_000
"""The whole text of an item; at four bytes a character it still fits into one record of the event log."""

_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"

UserId = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_PRINTABLE)]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_PRINTABLE)]
ItemType = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^/\x00-\x1f\x7f]+$")]
EventId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_PRINTABLE)]
TypeName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[a-z0-9_]+$")]
AnyTypeName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
AttributeName = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=_PRINTABLE)]


def _in_range(moment: datetime) -> datetime:
    if not 0 <= moment.timestamp() < _YEAR_10000:
        raise ValueError("times are kept from 1970 to 9999")
    return moment


Moment = Annotated[AwareDatetime, Strict(False), AfterValidator(_in_range)]
Weight = Annotated[FiniteFloat, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]


def _attribute_value(value: Any) -> AttributeValue | None:
    """Check one value and give it as the domain holds it.

    One function instead of a union, so that an error names the field and not the branches that did not fit.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _MAX_TEXT_CHARACTERS:
            raise ValueError(f"a text has at most {_MAX_TEXT_CHARACTERS} characters")
        return value
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list):
        if len(value) > _MAX_LIST_LENGTH:
            raise ValueError(f"a list has at most {_MAX_LIST_LENGTH} texts")
        if not all(isinstance(text, str) and 1 <= len(text) <= _MAX_LIST_TEXT_CHARACTERS for text in value):
            raise ValueError(f"a list holds texts of 1 to {_MAX_LIST_TEXT_CHARACTERS} characters")
        return tuple(value)
    raise ValueError("an attribute is a text, a number, true, false or a list of texts")


def _number(value: float) -> float:
    if isinstance(value, int) and abs(value) > _LARGEST_EXACT:
        raise ValueError("whole numbers are kept exactly only up to 2^53; send a larger one as text")
    if not math.isfinite(value):
        raise ValueError("a number is finite")
    return float(value)


def _operands(value: Any) -> tuple[AttributeValue, ...]:
    operands = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) for each in operands):
        raise ValueError("a condition compares with texts, numbers, true or false")
    return tuple(each if isinstance(each, str | bool) else _number(each) for each in operands)


_SCALARS = [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]
AttributeIn = Annotated[
    Any,
    PlainValidator(_attribute_value),
    WithJsonSchema({"anyOf": [*_SCALARS, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}),
]
OperandsIn = Annotated[
    Any,
    PlainValidator(_operands),
    WithJsonSchema({"anyOf": [*_SCALARS, {"type": "array", "items": {"anyOf": _SCALARS}}]}),
]


class Body(BaseModel):
    """What comes in: a field that is not known is refused, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class Out(BaseModel):
    """What goes out: only documents, is never run."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


# --- items ---------------------------------------------------------------------------------------------------------


class ItemContent(Body):
    """An item without its identity, which stands in the path."""

    title: Annotated[str, StringConstraints(max_length=1_000)] = ""
    """What people call it."""
    description: Annotated[str, StringConstraints(max_length=100_000)] = ""
    """Free text; it is embedded together with the title and the attributes."""
    attributes: Annotated[dict[AttributeName, AttributeIn], Field(max_length=_MAX_ATTRIBUTES)] = Field(
        default={}, examples=[{"genres": ["Drama", "War"], "year": 1957, "directors": ["Stanley Kubrick"]}]
    )
    """Anything that filters, diversity and explanations may use: texts, numbers, truth values or lists of texts.
    A value of null counts as absent."""
    created_at: Moment | None = None
    """When it came into being, as RFC 3339 with a zone or as Unix time, from 1970 to five minutes from now; absent:
    now. What is to come has an available_from."""
    available_from: Moment | None = None
    """It may be recommended from this moment on."""
    available_until: Moment | None = None
    """It may be recommended until just before this moment."""
    hidden: bool = False
    """A hidden item stays in histories and is never recommended."""

    @field_validator("attributes")
    @classmethod
    def _are_not_too_long(cls, attributes: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        length = len(info.data.get("title", "")) + len(info.data.get("description", ""))
        for name, value in attributes.items():
            length += len(name) + (
                len(value) if isinstance(value, str) else sum(map(len, value)) if isinstance(value, tuple) else 8
            )
        if length > _MAX_ITEM_CHARACTERS:
            raise ValueError(
                f"the item has {length} characters of text in all, at most {_MAX_ITEM_CHARACTERS} are kept"
            )
        return attributes

    @field_validator("available_until")
    @classmethod
    def _is_after_its_beginning(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        begin = info.data.get("available_from")
        if until and begin and begin >= until:
            raise ValueError("available_from is not before available_until")
        return until


class NewItem(ItemContent):
    """An item of the catalogue. Its identity is (item_type, item_id)."""

    item_id: ItemId = Field(examples=["0050083"])
    """The caller's id."""
    item_type: ItemType = DEFAULT_ITEM_TYPE
    """The caller's kind of thing, such as "film"."""


class ItemsBody(Body):
    """Items to create or replace."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MAX_BULK)]


class ItemOut(Out):
    """An item of the catalogue."""

    item_id: str
    item_type: str
    title: str
    description: str
    attributes: dict[str, Any]
    created_at: str
    available_from: str | None
    available_until: str | None
    hidden: bool
    updated_at: str


class ItemWritten(Out):
    """What became of an item."""

    item_id: str
    item_type: str
    status: str = Field(examples=["created"])
    """created, replaced, unchanged (a newer state is stored), or accepted (logged, and applied soon)."""


class ItemPage(Out):
    """A page of the catalogue, by item_type and item_id."""

    items: list[ItemOut]
    next_cursor: str | None
    """Give it back as `cursor` for the next page; null on the last."""


class BulkError(Out):
    """Why one element of a bulk was refused; the others went in."""

    index: int
    field: str
    code: str
    message: str


class BulkWritten(Out):
    """What became of a bulk."""

    accepted: int
    """How many were taken: written to the log, and stored unless the status is 202."""
    applied: int
    """How many of them changed something: the others were known already, or wait in the log."""
    errors: list[BulkError]
    """Those that were refused, by their place in the request."""


# --- interactions --------------------------------------------------------------------------------------------------


class NewInteraction(Body):
    """A user did something with an item; the item need not exist yet."""

    user_id: UserId = Field(examples=["u1"])
    """The caller's id of the user."""
    item_id: ItemId = Field(examples=["0050083"])
    """The item's id."""
    item_type: ItemType = DEFAULT_ITEM_TYPE
    """The item's kind."""
    interaction_type: AnyTypeName = Field(examples=["like"])
    """view, like, add_to_cart, purchase, rating, or one of your own."""
    value: Annotated[FiniteFloat, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)] | None = None
    """The number that goes with it, such as the stars of a rating."""
    occurred_at: Moment | None = None
    """When, as RFC 3339 with a zone or as Unix time; absent: now. At most five minutes ahead."""
    event_id: EventId | None = None
    """Identifies the event: a second one with the same id changes nothing."""


class InteractionsBody(Body):
    """Interactions to record, in order of arrival."""

    interactions: Annotated[list[NewInteraction], Field(min_length=1, max_length=MAX_BULK)]


class InteractionWritten(Out):
    """What became of an interaction."""

    event_id: str
    status: str = Field(examples=["created"])
    """created, unchanged (the event_id was known), or accepted (logged, and applied soon)."""


class InteractionOut(Out):
    """Something a user did."""

    event_id: str
    item_id: str
    item_type: str
    interaction_type: str
    value: float | None
    occurred_at: str


class InteractionPage(Out):
    """A page of a user's history, newest first."""

    user_id: str
    interactions: list[InteractionOut]
    next_cursor: str | None


class InteractionTypeBody(Body):
    """How much an interaction says, and in which direction."""

    name: TypeName = Field(examples=["finished"])
    """1 to 64 characters of a-z, 0-9 and _."""
    weight: Annotated[FiniteFloat, Field(ge=-100, le=100)]
    """The signed weight of one interaction; with a centre, the weight of one unit above it."""
    centre: Annotated[FiniteFloat, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)] | None = None
    """When set, the interaction needs a value and weighs weight * (value - centre)."""
    counts_as_seen: bool = True
    """Whether an item so touched is left out of recommendations from then on."""


class InteractionTypesBody(Body):
    """Interaction types to create or replace; they weigh interactions from then on, also older ones."""

    interaction_types: Annotated[list[InteractionTypeBody], Field(min_length=1, max_length=100)]


class InteractionTypesOut(Out):
    """A tenant's interaction types by name, the built-in ones included."""

    interaction_types: list[InteractionTypeBody]


# --- recommendations -----------------------------------------------------------------------------------------------


class PredicateBody(Body):
    """One condition on one attribute."""

    field: AttributeName = Field(examples=["genres"])
    """The attribute's name, or item_type or created_at_ms."""
    op: str = Field(examples=["in"])
    """eq, in, not_in, gte, lte or exists."""
    value: OperandsIn = Field(examples=[["Drama", "War"]])
    """What it is compared with: a list for in and not_in, true or false for exists."""


class ItemRefBody(Body):
    """The identity of an item."""

    item_id: ItemId
    item_type: ItemType = DEFAULT_ITEM_TYPE


class SessionEventBody(Body):
    """Something a visitor did in this session."""

    item_id: ItemId
    item_type: ItemType = DEFAULT_ITEM_TYPE
    interaction_type: AnyTypeName = "view"
    """Says how much it weighs, unless `weight` does."""
    value: Weight | None = None
    weight: Annotated[FiniteFloat, Field(ge=-100, le=100)] | None = None
    occurred_at: Moment | None = None
    """Absent: now."""


class RecommendationBody(Body):
    """A request for a list of recommendations."""

    user_id: UserId | None = Field(default=None, examples=["u1"])
    """Whose list; without it and without history the list is of what is popular."""
    history: Annotated[list[SessionEventBody], Field(max_length=1_000)] = []
    """What an anonymous visitor did in this session, oldest first. With a user_id it is put before what is stored."""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 10
    """How many items."""
    cursor: str = ""
    """The next_cursor of the page before."""
    item_type: ItemType | None = None
    """Only items of this kind."""
    filter: Annotated[list[PredicateBody], Field(max_length=20)] = []
    """All of these must hold."""
    exclude: Annotated[list[ItemRefBody], Field(max_length=1_000)] = []
    """Items that must not be in the list, besides those that were seen."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: by score alone. 1: as different as possible."""
    caps: Annotated[dict[AttributeName, Annotated[int, Field(ge=1)]], Field(max_length=10)] = {}
    """For an attribute, how many items that share a value of it may be in the list."""
    algorithm: Annotated[Algorithm, Strict(False)] = Algorithm.HYBRID
    """Which group of sources is asked, with the weights that training gave them."""
    weights: Annotated[dict[str, Weight], Field(min_length=1, max_length=20)] | None = Field(
        default=None, examples=[{"cooccurrence": 1.0, "content": 0.5}]
    )
    """Replaces the learned weights altogether: only the sources named are asked."""
    window: Annotated[Window, Strict(False)] | None = None
    """Over which past popularity is counted, as a half-life."""
    explain: bool = False
    """Add every contribution and every path of the graph to the reasons."""
    surface: Annotated[str, StringConstraints(max_length=64)] = ""
    """Your name of the place on the page; it is logged with the list."""


class BatchBody(Body):
    """Several requests at once."""

    requests: Annotated[list[RecommendationBody], Field(min_length=1, max_length=100)]


class EvidenceOut(Out):
    """An item that a reason speaks of."""

    item_id: str
    item_type: str
    title: str


class ReasonOut(BaseModel):
    """Why an item is in the list."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    code: str = Field(examples=["because_you_interacted"])
    """because_you_interacted, related_through, trending, similar_to, matches_query or fallback."""
    item: EvidenceOut | SkipJsonSchema[None] = None
    """The history item that it speaks of."""
    source: str = ""
    """With explain: the source that says so."""
    share: float | SkipJsonSchema[None] = None
    """With explain: how much of the score it gave."""
    meta_path: str = ""
    """With explain: item_person_item, item_genre_item or item_user_item."""
    through: str = ""
    """With explain: the person, genre or country in the middle; of users how many, never who."""


class RecommendedItemOut(Out):
    """One item of a list."""

    item_id: str
    item_type: str
    title: str
    attributes: dict[str, Any]
    """The item's attributes, without long texts."""
    rank: int
    """From 1; goes on over pages."""
    score: float
    """Comparable within this list only."""
    sources: dict[str, float]
    """Each source's share."""
    reasons: list[ReasonOut]


class RecommendationsOut(Out):
    """A list of recommendations."""

    request_id: str
    model_version: str
    """Empty before the first training."""
    variant: str
    strategy: str
    """What filled the list: the algorithm's name, weights, trending, similar, search or fallback."""
    cold_start: bool
    """Nothing was known of this visitor."""
    degraded: list[str]
    """What could not be asked just now: profile, vectors, graph, trending, items, explanations."""
    items: list[RecommendedItemOut]
    next_cursor: str | None
    """Give it back as `cursor`, with everything else unchanged, for the next page; null on the last."""


class BatchOut(Out):
    """One list, or one problem, for each request."""

    results: list[RecommendationsOut | dict[str, Any]]


class ProblemOut(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    title: str
    status: int
    code: str
    """Stable; for programs."""
    detail: str
    """For people."""
    request_id: str
    field: str = ""
    """The field at fault, such as `attributes.year` or `filter[0].op`."""
    errors: list[dict[str, str]] = []
    """All fields at fault."""
