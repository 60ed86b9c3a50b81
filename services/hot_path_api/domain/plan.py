"""What a request asks of whom: which sources, with which weights, and how their answers are blended."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from hot_path_api.domain.blend import Blend
from hot_path_api.domain.candidates import CONTENT_SOURCES, FACTORS, GRAPH, TRENDING
from hot_path_api.domain.recommendations import Algorithm
from hot_path_api.domain.serving import ServingModel
from servicekit.errors import InvalidArgumentError

CUSTOM_STRATEGY = "weights"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask and how to blend.

    Args:
        blend: Scores the pool.
        retrieval: Whether vector_search is asked, with `retrieval_weights` or, if None, with its own.
        graph: Whether graph_service is asked, with `graph_weights` or, if None, with its own.
        trending: Whether popular items are candidates among the others.
        tops_up: Whether popular items follow when the others run out.
        strategy: Its name in metrics and answers.
    """

    blend: Blend
    retrieval: bool
    retrieval_weights: Mapping[str, float] | None
    graph: bool
    graph_weights: Mapping[str, float] | None
    trending: bool
    tops_up: bool
    strategy: str


def plan_algorithm(model: ServingModel, algorithm: Algorithm) -> Plan:
    """Plan with the learned weights of a group of sources; popular items fill what is left."""
    if algorithm is Algorithm.HYBRID:
        group = model.sources
    elif algorithm is Algorithm.GRAPH:
        group = frozenset({GRAPH})
    elif algorithm is Algorithm.CONTENT_BASED:
        group = frozenset(CONTENT_SOURCES)
    else:
        group = model.sources - {GRAPH, TRENDING, *CONTENT_SOURCES}
    weights = {name: model.source_weights.get(name, 1.0) for name in sorted(group & model.retrieval_sources)}
    return Plan(
        blend=model.blend.without(model.sources - group),
        retrieval=bool(weights),
        retrieval_weights=None if algorithm is Algorithm.HYBRID else weights,
        graph=GRAPH in group,
        graph_weights=model.graph_weights or None,
        trending=False,
        tops_up=True,
        strategy=algorithm.value,
    )


def require_sources(weights: Iterable[str], sources: AbstractSet[str]) -> None:
    """Make sure that there are sources of these names.

    Raises:
        InvalidArgumentError: One of them is not there.
    """
    unknown = sorted(set(weights) - sources)
    if unknown:
        raise InvalidArgumentError(
            f"there is no source {unknown[0]!r}; the sources are {', '.join(sorted(sources))}",
            field=f"weights.{unknown[0]}",
        )


def plan_weights(model: ServingModel, weights: Mapping[str, float]) -> Plan:
    """Plan with the caller's weights of plain shares; nobody is asked who is not named.

    Raises:
        InvalidArgumentError: There is no source of that name.
    """
    require_sources(weights, model.sources)
    retrieval = {name: weight for name, weight in weights.items() if name in model.retrieval_sources}
    return Plan(
        blend=Blend.of_weights(weights),
        retrieval=bool(retrieval) or FACTORS in weights,
        retrieval_weights=retrieval or None,
        graph=GRAPH in weights,
        graph_weights=model.graph_weights or None,
        trending=TRENDING in weights,
        tops_up=False,
        strategy=CUSTOM_STRATEGY,
    )
