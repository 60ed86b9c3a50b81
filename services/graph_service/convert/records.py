"""Reads changes of the graph from records of the event log."""

from typing import Final

from graph_service.convert.changes import MutationReader
from graph_service.domain.graph import Mutation
from recommendation.events.v1 import events_pb2
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import Record
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED, USER_INTERACTIONS

TOPICS: Final = (CONTENT_CHANGED, USER_INTERACTIONS, USER_ERASED)
"""What changes the graph."""

GROUP: Final = "graph_service"
"""The consumer group that applies it."""


def read_record(reader: MutationReader, record: Record) -> Mutation:
    """Read the change that a record of TOPICS tells.

    Raises:
        InvalidArgumentError: It cannot be read, or names a field at fault.
    """
    if record.topic == CONTENT_CHANGED:
        return reader.content_changed(decode(record, events_pb2.ContentChanged))
    if record.topic == USER_INTERACTIONS:
        return reader.interaction(decode(record, events_pb2.InteractionRecorded))
    return reader.erased_user(decode(record, events_pb2.UserErased))
