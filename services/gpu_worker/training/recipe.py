"""What a model is made of, which settings are tried, and with which it begins.

The starting points ranked best on hold-outs inside the training parts of ML-100K; every run tries the alternatives on
its own hold-out and keeps what helps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpu_worker.domain.training import HoldOut, SourceSettings
from gpu_worker.training import meta_paths

TABLES = ("cooccurrence", "session", "transition", "content")
"""The sources that vector_search answers from tables, in order."""
SHARES = (*TABLES, "factors", "graph")
"""Everything that gives a share, in the order of the blend's features."""

NEIGHBOURS = {"cooccurrence": 100, "session": 200, "transition": 200, "content": 50}
"""Entries kept of a row. The tables that only read the newest items can afford more; co-occurrence reads the whole
history. On hold-outs of ML-100K this keeps 99 % of the NDCG@10 of whole rows."""

_RETRIEVAL_WEIGHTS = {"cooccurrence": 1.0, "session": 1.0, "transition": 1.0, "content": 0.1}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that may be tuned.

    Args:
        cooccurrence_ridge: EDLAE's lambda.
        cooccurrence_dropout: EDLAE's p.
        session_ridge: The same on the session kernel.
        session_dropout: The same on the session kernel.
        session_half_life_items: How far apart two items of a session count half.
        factors_regularization: Of iALS.
        factors_alpha: The confidence of iALS in what was touched.
        factors_epochs: How often ELSA sees each user.
        sources: How each share weighs a history; scales are set in training.
    """

    cooccurrence_ridge: float = 400.0
    cooccurrence_dropout: float = 0.3
    session_ridge: float = 200.0
    session_dropout: float = 0.3
    session_half_life_items: float = 2.0
    factors_regularization: float = 10.0
    factors_alpha: float = 1.0
    factors_epochs: float = 15.0
    sources: Mapping[str, SourceSettings] = field(default_factory=dict)

    def with_half_life(self, source: str, half_life_items: float | None) -> "Recipe":
        """Let one source forget faster or slower."""
        changed = replace(self.sources[source], half_life_items=half_life_items)
        return replace(self, sources={**self.sources, source: changed})

    def with_scales(self, scales: Mapping[str, float]) -> "Recipe":
        """Set the scales of some sources."""
        scaled = {name: replace(self.sources[name], scale=scale) for name, scale in scales.items()}
        return replace(self, sources={**self.sources, **scaled})


def starting_point(hold_out: HoldOut) -> Recipe:
    """Give the recipe that a run begins with."""
    plain = {name: SourceSettings(scale=1.0, retrieval_weight=_RETRIEVAL_WEIGHTS.get(name, 0.0)) for name in SHARES}
    # graph_service forgets at its own pace, whatever the hold-out.
    graph = replace(plain["graph"], half_life_items=meta_paths.HALF_LIFE_ITEMS)
    if hold_out is HoldOut.RANDOM:
        return Recipe(
            session_half_life_items=10.0,
            factors_regularization=30.0,
            factors_alpha=3.0,
            sources={**plain, "graph": graph},
        )
    return Recipe(
        sources={
            **plain,
            "session": replace(
                plain["session"], half_life_items=3.0, ties_share_position=True, half_life_s=1800.0, time_floor=0.3
            ),
            "transition": replace(plain["transition"], half_life_items=1.0, ties_share_position=True),
            "content": replace(plain["content"], half_life_items=3.0),
            "factors": replace(plain["factors"], half_life_items=40.0),
            "graph": graph,
        }
    )


def alternatives(hold_out: HoldOut, factor_model: str) -> Sequence[tuple[str, Mapping[str, float]]]:
    """Give what is tried, one after the other: the source that changes, and the new values."""
    options = _alternatives(hold_out)
    if factor_model == "ials":
        return options
    own = {"factors_regularization", "factors_alpha"}
    return (*(option for option in options if own.isdisjoint(option[1])), ("factors", {"factors_epochs": 30.0}))


def _alternatives(hold_out: HoldOut) -> Sequence[tuple[str, Mapping[str, float]]]:
    if hold_out is HoldOut.RANDOM:
        return (
            ("session", {"session_half_life_items": 2.0}),
            ("session", {"session_half_life_items": 20.0}),
            ("factors", {"factors_regularization": 10.0, "factors_alpha": 1.0}),
            ("factors", {"factors_regularization": 60.0, "factors_alpha": 6.0}),
            ("cooccurrence", {"cooccurrence_dropout": 0.5}),
        )
    return (
        ("cooccurrence", {"half_life_items": 20.0}),
        ("session", {"half_life_items": 5.0}),
        ("factors", {"factors_regularization": 30.0, "factors_alpha": 3.0}),
        ("factors", {"half_life_items": 10.0}),
    )


def changed(recipe: Recipe, source: str, values: Mapping[str, float]) -> Recipe:
    """Apply one alternative."""
    if "half_life_items" in values:
        return recipe.with_half_life(source, values["half_life_items"])
    return replace(recipe, **values)  # type: ignore[arg-type]  # only the float fields are named above
