"""Messages to domain and back; one of these functions for each thing that travels."""

import json

from gpu_worker.application.embedding import Change, ItemDeleted, ItemPut
from gpu_worker.application.registry import ModelListing
from gpu_worker.application.training import RunState, TrainingRun
from gpu_worker.domain.items import Item
from gpu_worker.domain.rebuilding import Rebuild, RebuildState, Source
from gpu_worker.domain.training import HoldOut
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.gpu_worker.v1 import gpu_worker_pb2 as pb
from servicekit.errors import InvalidArgumentError
from servicekit.identity import item_key

_HOLD_OUTS = {
    pb.HOLD_OUT_UNSPECIFIED: HoldOut.TIME,
    pb.HOLD_OUT_TIME: HoldOut.TIME,
    pb.HOLD_OUT_RANDOM: HoldOut.RANDOM,
}
_STATES = {
    RunState.RUNNING: pb.TRAINING_STATE_RUNNING,
    RunState.SUCCEEDED: pb.TRAINING_STATE_SUCCEEDED,
    RunState.FAILED: pb.TRAINING_STATE_FAILED,
}
_SOURCES = {
    pb.REBUILD_SOURCE_UNSPECIFIED: Source.PROFILE_STORE,
    pb.REBUILD_SOURCE_PROFILE_STORE: Source.PROFILE_STORE,
    pb.REBUILD_SOURCE_LOG: Source.LOG,
}
_REBUILD_STATES = {
    RebuildState.RUNNING: pb.REBUILD_STATE_RUNNING,
    RebuildState.SUCCEEDED: pb.REBUILD_STATE_SUCCEEDED,
    RebuildState.FAILED: pb.REBUILD_STATE_FAILED,
}


def item_from_message(message: common_pb2.Item) -> Item:
    """Read an item.

    Raises:
        InvalidArgumentError: It has no identity.
    """
    _check_identity(message.tenant, message.item_type, message.item_id)
    return Item(
        message.tenant,
        message.item_type,
        message.item_id,
        message.title,
        message.description,
        {name: _texts(value) for name, value in message.attributes.items() if value.WhichOneof("kind") in _TEXTUAL},
        message.hidden,
        message.SerializeToString(deterministic=True),
    )


def change_from_message(event: events_pb2.ContentChanged) -> Change:
    """Read a change of an item.

    Raises:
        InvalidArgumentError: It is no change.
    """
    match event.WhichOneof("change"):
        case "put":
            if not event.put.updated_at_ms:  # the state's time is the event's
                event.put.updated_at_ms = event.occurred_at_ms
            return ItemPut(event.event_id, event.put.updated_at_ms, item_from_message(event.put))
        case "deleted":
            gone = event.deleted
            _check_identity(gone.tenant, gone.item_type, gone.item_id)
            key = item_key(gone.tenant, gone.item_type, gone.item_id)
            return ItemDeleted(event.event_id, event.occurred_at_ms, gone.tenant, key)
        case _:
            raise InvalidArgumentError("the event has neither put nor deleted", field="change")


def hold_out_from_message(value: pb.HoldOut.ValueType) -> HoldOut:
    """Read how the hold-out is drawn.

    Raises:
        InvalidArgumentError: It is none that we know.
    """
    try:
        return _HOLD_OUTS[value]
    except KeyError:
        raise InvalidArgumentError(f"hold_out {value} is none that we know", field="hold_out") from None


def run_to_message(run: TrainingRun) -> pb.GetTrainingResponse:
    """Write how a run is going."""
    return pb.GetTrainingResponse(
        state=_STATES[run.state],
        stage=run.stage,
        progress=run.progress,
        version=run.version,
        activated=run.activated,
        message=run.message,
        report_json=json.dumps(run.report) if run.report else "",
        activation_pending=run.activation_pending,
    )


def source_from_message(value: pb.RebuildSource.ValueType) -> Source:
    """Read where a rebuild reads the items.

    Raises:
        InvalidArgumentError: It is none that we know.
    """
    try:
        return _SOURCES[value]
    except KeyError:
        raise InvalidArgumentError(f"source {value} is none that we know", field="source") from None


def rebuild_to_message(rebuild: Rebuild) -> pb.GetRebuildResponse:
    """Write how a rebuild is going."""
    return pb.GetRebuildResponse(
        state=_REBUILD_STATES[rebuild.state],
        stage=rebuild.stage,
        progress=rebuild.progress,
        items=rebuild.items,
        encoded=rebuild.encoded,
        vectors=rebuild.vectors,
        previous_vectors=rebuild.previous_vectors,
        recall_at_10=rebuild.recall_at_10,
        sampled=rebuild.sampled,
        differing=rebuild.differing,
        message=rebuild.message,
    )


def model_to_message(listing: ModelListing) -> pb.ListModelsResponse.Model:
    """Write a version as it is listed."""
    manifest = listing.manifest
    data = manifest["data"]
    return pb.ListModelsResponse.Model(
        version=manifest["version"],
        trained_at_ms=manifest["trained_at_ms"],
        active=listing.active,
        items=data["items"],
        users=data["users"],
        interactions=data["interactions"],
        metrics=manifest["metrics"]["blend"],
        refused_because=listing.refused_because,
    )


_TEXTUAL = ("text", "texts")


def _texts(value: common_pb2.AttributeValue) -> tuple[str, ...]:
    return tuple(value.texts.values) if value.HasField("texts") else (value.text,)


def _check_identity(tenant: str, item_type: str, item_id: str) -> None:
    for field, value in (("tenant", tenant), ("item_type", item_type), ("item_id", item_id)):
        if not value:
            raise InvalidArgumentError(f"the item has no {field}", field=field)
