"""The RPCs: each reads the request, makes one call and writes the answer; a bad element fails alone."""
# ruff: noqa: D102, N802 - the proto names and describes the methods

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from graph_service.application.queries import Explanation, ExplanationQuery
from graph_service.application.rebuild import GraphRebuilder
from graph_service.application.use_cases import GraphUseCases
from graph_service.convert import answers, questions
from graph_service.convert.changes import MutationReader
from graph_service.domain.graph import Mutation
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from recommendation.graph_service.v1 import graph_service_pb2_grpc as pb_grpc
from servicekit.errors import InvalidArgumentError, ServiceError

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["GraphService"].full_name

MAX_QUERIES: Final = 256
MAX_EXPLANATIONS: Final = 64
MAX_MUTATIONS: Final = 10_000

Message = TypeVar("Message")
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class GraphServicer(pb_grpc.GraphServiceServicer):
    """The calls of the proto, where each is described."""

    def __init__(self, use_cases: GraphUseCases, reader: MutationReader, rebuilder: GraphRebuilder) -> None:
        self._use_cases = use_cases
        self._reader = reader
        self._rebuilder = rebuilder

    async def ExpandUsers(self, request: pb.ExpandUsersRequest, _: object) -> pb.ExpandUsersResponse:
        _check_count(len(request.queries), "queries", MAX_QUERIES)
        answered = await _each_alone(request.queries, questions.expansion_from_message, self._use_cases.expand_users)
        return pb.ExpandUsersResponse(results=map(answers.candidates_to_message, answered))

    async def RelatedItems(self, request: pb.RelatedItemsRequest, _: object) -> pb.RelatedItemsResponse:
        _check_count(len(request.queries), "queries", MAX_QUERIES)
        answered = await _each_alone(request.queries, questions.related_from_message, self._use_cases.related_items)
        return pb.RelatedItemsResponse(results=map(answers.related_to_message, answered))

    async def ExplainRecommendations(
        self, request: pb.ExplainRecommendationsRequest, _: object
    ) -> pb.ExplainRecommendationsResponse:
        _check_count(len(request.queries), "queries", MAX_EXPLANATIONS)
        answered = await _each_alone(request.queries, questions.explanation_from_message, self._explain)
        return pb.ExplainRecommendationsResponse(results=map(answers.explanation_to_message, answered))

    async def ApplyMutations(self, request: pb.ApplyMutationsRequest, _: object) -> pb.ApplyMutationsResponse:
        _check_count(len(request.mutations), "mutations", MAX_MUTATIONS)
        outcomes = await _each_alone(request.mutations, self._reader.mutation, self._apply)
        return pb.ApplyMutationsResponse(errors=answers.errors_to_messages(outcomes))

    async def DescribeGraph(self, _request: pb.DescribeGraphRequest, _: object) -> pb.DescribeGraphResponse:
        counts, serving = await self._use_cases.describe()
        return pb.DescribeGraphResponse(counts=answers.counts_to_message(counts), serving=serving)

    async def RebuildGraph(self, request: pb.RebuildGraphRequest, _: object) -> AsyncIterator[pb.RebuildGraphResponse]:
        async with aclosing(self._rebuilder.rebuild(questions.rebuild_from_message(request))) as told:
            async for progress in told:
                yield answers.progress_to_message(progress)

    async def _explain(self, queries: Sequence[ExplanationQuery]) -> list[Explanation]:
        return [await self._use_cases.explain(query) for query in queries]

    async def _apply(self, mutations: Sequence[Mutation]) -> list[None]:
        await self._use_cases.apply(mutations)
        return [None] * len(mutations)


async def _each_alone(
    messages: Iterable[Message],
    read: Callable[[Message], Question],
    ask: Callable[[Sequence[Question]], Awaitable[Sequence[Answer | ServiceError]]],
) -> list[Answer | ServiceError]:
    """Ask for all that can be read, and give the answers and the faults in the order of the messages."""
    readable: list[Question] = []
    faults: list[ServiceError | None] = []
    for message in messages:
        try:
            readable.append(read(message))
            faults.append(None)
        except InvalidArgumentError as error:
            faults.append(error)
    answered = iter(await ask(readable) if readable else ())
    return [next(answered) if fault is None else fault for fault in faults]


def _check_count(count: int, field: str, most: int) -> None:
    if not 1 <= count <= most:
        raise InvalidArgumentError(f"{field} must have 1 to {most:,} elements, not {count:,}", field=field)
