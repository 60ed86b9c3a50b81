"""The query parameters of the GET routes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hot_path_api.api.requests import REPEATABLE
from hot_path_api.api.schemas import DEFAULT_ITEM_TYPE, ItemType, UserId
from hot_path_api.domain.popularity import Window
from hot_path_api.domain.recommendations import MAX_LIMIT, Algorithm

_Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
_PageSize = Annotated[int, Field(ge=1, le=1_000)]
_Repeated = Annotated[tuple[str, ...], Field(max_length=20, json_schema_extra=REPEATABLE)]


class Parameters(BaseModel):
    """Query parameters; one that is not known is refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class NoParameters(Parameters):
    """A route that takes none."""


class ListParameters(Parameters):
    """What every list takes."""

    limit: _Limit = 10
    """How many items."""
    cursor: str = ""
    """The next_cursor of the page before; everything else must stay the same."""
    item_type: ItemType | None = None
    """Only items of this kind."""
    filter: _Repeated = Field(default=(), examples=[["genres:in:Drama,War", "year:gte:1950"]])
    """A condition as field:op:value; may be repeated, and all must hold. Operators: eq, in, not_in, gte, lte, exists;
    the values of in and not_in are separated by commas."""


class TrendingParameters(ListParameters):
    """What the popular list takes."""

    window: Window | None = None
    """Over which past popularity is counted, as a half-life; `all` does not decay. Absent: as the model says."""
    exclude: Annotated[tuple[str, ...], Field(max_length=100, json_schema_extra=REPEATABLE)] = ()
    """An item_id that must not be in the list, or ITEM_TYPE/ITEM_ID where no item_type is given; may be repeated."""


class UserListParameters(TrendingParameters):
    """What the list of a user takes."""

    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: by score alone. 1: as different as possible."""
    algorithm: Algorithm = Algorithm.HYBRID
    """Which group of sources is asked, with the weights that training gave them."""
    weights: Annotated[str, StringConstraints(max_length=1_000)] | None = Field(
        default=None, examples=["cooccurrence:1,content:0.5"]
    )
    """Replaces the learned weights altogether, as source:weight,source:weight; only the sources named are asked."""
    explain: bool = False
    """Add every contribution and every path of the graph to the reasons."""
    surface: Annotated[str, StringConstraints(max_length=64)] = ""
    """Your name of the place on the page; it is logged with the list."""


class RecommendationParameters(UserListParameters):
    """What the main call takes."""

    user_id: UserId | None = None
    """Whose list; without it the list is of what is popular, the same for everybody, and may be cached."""


class SimilarParameters(ListParameters):
    """What similar items take."""

    item_type: ItemType = DEFAULT_ITEM_TYPE
    """The kind of the item in the path."""
    weights: Annotated[str, StringConstraints(max_length=1_000)] | None = None
    """Replaces the learned weights of the sources, as source:weight,source:weight."""


class SearchParameters(ListParameters):
    """What the search takes."""

    q: Annotated[str, StringConstraints(min_length=1, max_length=1_000)] = Field(examples=["courtroom drama"])
    """Words."""


class ItemParameters(Parameters):
    """The rest of an item's identity."""

    item_type: ItemType = DEFAULT_ITEM_TYPE
    """The item's kind."""


class ItemPageParameters(Parameters):
    """Which page of the catalogue."""

    item_type: ItemType | None = None
    """Only items of this kind."""
    limit: _PageSize = 100
    """How many items."""
    cursor: str = ""
    """The next_cursor of the page before."""


class HistoryParameters(Parameters):
    """Which page of a history."""

    limit: _PageSize = 100
    """How many interactions."""
    cursor: str = ""
    """The next_cursor of the page before."""
