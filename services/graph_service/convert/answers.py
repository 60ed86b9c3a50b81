"""Writes what the graph answers."""

from collections.abc import Iterable

from graph_service.application.queries import Explanation, RankedItems
from graph_service.application.rebuild import RebuildProgress
from graph_service.domain.composition import Candidates
from graph_service.domain.ports import GraphCounts
from recommendation.common.v1 import common_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from servicekit.arrays import pack_floats, pack_ints, pack_keys
from servicekit.errors import ServiceError


def candidates_to_message(answer: Candidates | ServiceError) -> pb.ExpandUsersResponse.Candidates:
    """Write a user's candidates."""
    if isinstance(answer, ServiceError):
        return pb.ExpandUsersResponse.Candidates(error=error_to_message(answer))
    return pb.ExpandUsersResponse.Candidates(
        item_keys=pack_keys(answer.keys), scores=pack_floats(answer.scores), because=pack_ints(answer.because)
    )


def related_to_message(answer: RankedItems | ServiceError) -> pb.RelatedItemsResponse.Related:
    """Write an item's related items."""
    if isinstance(answer, ServiceError):
        return pb.RelatedItemsResponse.Related(error=error_to_message(answer))
    return pb.RelatedItemsResponse.Related(item_keys=pack_keys(answer.keys), scores=pack_floats(answer.scores))


def explanation_to_message(answer: Explanation | ServiceError) -> pb.ExplainRecommendationsResponse.Explanation:
    """Write the paths of one query."""
    if isinstance(answer, ServiceError):
        return pb.ExplainRecommendationsResponse.Explanation(error=error_to_message(answer))
    return pb.ExplainRecommendationsResponse.Explanation(
        paths=[
            pb.ExplainRecommendationsResponse.Path(
                item_key=path.item_key,
                history_key=path.history_key,
                meta_path=pb.MetaPath.ValueType(path.meta_path),
                through=path.through,
                share=path.share,
            )
            for path in answer
        ]
    )


def counts_to_message(counts: GraphCounts) -> pb.GraphCounts:
    """Write how much a graph holds."""
    return pb.GraphCounts(items=counts.items, users=counts.users, relations=counts.relations, links=counts.links)


def progress_to_message(progress: RebuildProgress) -> pb.RebuildGraphResponse:
    """Write how far a rebuild is."""
    return pb.RebuildGraphResponse(
        phase=pb.RebuildPhase.ValueType(progress.phase),
        written=progress.written,
        serving=counts_to_message(progress.serving) if progress.serving else None,
        rebuilt=counts_to_message(progress.rebuilt) if progress.rebuilt else None,
        sampled=progress.sampled,
        agreeing=progress.agreeing,
    )


def errors_to_messages(errors: Iterable[ServiceError | None]) -> list[common_pb2.ElementError]:
    """Write what became of changes; an entry without code is a success."""
    return [common_pb2.ElementError() if error is None else error_to_message(error) for error in errors]


def error_to_message(error: ServiceError) -> common_pb2.ElementError:
    """Write why one element has no answer."""
    return common_pb2.ElementError(code=error.code, message=error.message, field=error.field)
