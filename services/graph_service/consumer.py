"""The event log's way in: records to changes, applied by the same use case as the RPC."""

from collections.abc import Sequence
from typing import Final

from graph_service.application.use_cases import GraphUseCases
from graph_service.convert.changes import MutationReader
from graph_service.domain.graph import Mutation
from recommendation.events.v1 import events_pb2
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import Record
from servicekit.eventlog.runner import RecordFailure
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED, USER_INTERACTIONS

TOPICS: Final = (CONTENT_CHANGED, USER_INTERACTIONS, USER_ERASED)
GROUP: Final = "graph_service"


class GraphConsumer:
    """Applies records of TOPICS, a batch in one go; their order between topics does not matter."""

    def __init__(self, use_cases: GraphUseCases, reader: MutationReader) -> None:
        self._use_cases = use_cases
        self._reader = reader
        self.is_settled = True
        """Whether everything handed over so far is applied."""

    async def handle(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        """Apply the records that can be read and give back the others; for ConsumerRunner.

        Raises:
            UnavailableError: The store cannot be reached; the runner tries again.
        """
        self.is_settled = False
        mutations: list[Mutation] = []
        failures: list[RecordFailure] = []
        for record in records:
            try:
                mutations.append(self._read(record))
            except InvalidArgumentError as error:
                failures.append(RecordFailure(record, error))
        if mutations:
            await self._use_cases.apply(mutations)
        self.is_settled = True
        return failures

    def _read(self, record: Record) -> Mutation:
        if record.topic == CONTENT_CHANGED:
            return self._reader.content_changed(decode(record, events_pb2.ContentChanged))
        if record.topic == USER_INTERACTIONS:
            return self._reader.interaction(decode(record, events_pb2.InteractionRecorded))
        return self._reader.erased_user(decode(record, events_pb2.UserErased))
