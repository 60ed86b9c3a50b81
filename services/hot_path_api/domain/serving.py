"""What the gateway needs to know of the active model: how to blend, what to fall back to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hot_path_api.domain.blend import Blend, Term, Transform
from hot_path_api.domain.candidates import FACTORS, GRAPH, RETRIEVAL_SOURCES, TRENDING
from hot_path_api.domain.items import ItemRef
from hot_path_api.domain.popularity import Window
from servicekit.errors import InternalError


@dataclass(frozen=True, slots=True)
class ServingModel:
    """The active version of a tenant as the pipeline uses it.

    Args:
        version: Its name; empty before the first training.
        blend: Scores candidates.
        source_weights: By which retrieval weighs its parts when it chooses candidates; empty keeps its own.
        graph_weights: Multipliers of the graph's meta-paths; empty keeps graph_service's own.
        trending_window: The past over which "trending" is counted.
        fallback: A list for the day when nothing else can be said, best first.
    """

    version: str
    blend: Blend
    source_weights: Mapping[str, float] = field(default_factory=dict)
    graph_weights: Mapping[str, float] = field(default_factory=dict)
    trending_window: Window = Window.MONTH
    fallback: tuple[ItemRef, ...] = ()

    @property
    def retrieval_sources(self) -> frozenset[str]:
        """The sources that vector_search retrieves by."""
        return frozenset(RETRIEVAL_SOURCES) | frozenset(self.source_weights)

    @property
    def sources(self) -> frozenset[str]:
        """Everything that a caller can weigh."""
        return self.retrieval_sources | {GRAPH, TRENDING, FACTORS}


UNTRAINED = ServingModel(
    version="",
    # Before the first training nothing is known of the scales, so every source that speaks counts the same.
    blend=Blend(Term(name, 1.0, Transform.SQRT) for name in (*RETRIEVAL_SOURCES, GRAPH, TRENDING)),
)


def parse_serving(document: str) -> ServingModel:
    """Read the `serving` object of a manifest; an empty document is a tenant without a model.

    `features` names what is weighed, as "cooccurrence" or "sqrt(cooccurrence)", and `weights` goes along with it.

    Raises:
        InternalError: It is not what training writes; says what is wrong.
    """
    if not document:
        return UNTRAINED
    try:
        serving: dict[str, Any] = json.loads(document)
        terms = [
            _term(name, float(weight)) for name, weight in zip(serving["features"], serving["weights"], strict=True)
        ]
        graph, trending = serving.get("graph", {}), serving.get("trending", {})
        return ServingModel(
            version=str(serving["version"]),
            blend=Blend(terms),
            source_weights={
                name: float(source["weight"])
                for name, source in serving.get("sources", {}).items()
                if name not in {GRAPH, TRENDING, FACTORS}
            },
            graph_weights={name: float(weight) for name, weight in graph.get("meta_path_weights", {}).items()},
            trending_window=Window(trending.get("window", Window.MONTH)),
            fallback=tuple(ItemRef(str(ref["item_type"]), str(ref["item_id"])) for ref in serving.get("fallback", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InternalError(f"the model's serving document cannot be used: {error!r}") from error


def _term(feature: str, weight: float) -> Term:
    for transform in Transform:
        opening = f"{transform}("
        if feature.startswith(opening) and feature.endswith(")"):
            return Term(feature[len(opening) : -1], weight, transform)
    return Term(feature, weight)
