"""The gRPC methods."""
# ruff: noqa: N802, ARG002 - the API names and describes the methods; no method looks at its context

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import qdrant_edge
from google.protobuf.timestamp_pb2 import Timestamp
from qdrant_client import grpc as pb

from servers.qdrant import translation
from servers.qdrant.refusals import wrong
from servers.qdrant.storage import Collection, Storage

_COMPLETED = pb.UpdateStatus.Completed
_SCHEMA_TYPES = {
    qdrant_edge.PayloadSchemaType.Keyword: pb.PayloadSchemaType.Keyword,
    qdrant_edge.PayloadSchemaType.Float: pb.PayloadSchemaType.Float,
}


class Health(pb.QdrantServicer):
    """Says that the server is there."""

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return pb.HealthCheckReply(title="qdrant - vector search engine", version="1.15.0")


class Points(pb.PointsServicer):
    """What is done with points."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def Upsert(self, request: Any, context: Any) -> Any:
        self._storage.find(request.collection_name).upsert(request.points)
        return _completed()

    def UpdateVectors(self, request: Any, context: Any) -> Any:
        self._storage.find(request.collection_name).update_vectors(request.points)
        return _completed()

    def SetPayload(self, request: Any, context: Any) -> Any:
        collection = self._storage.find(request.collection_name)
        collection.set_payload(request.points_selector, request.payload, whole=False)
        return _completed()

    def OverwritePayload(self, request: Any, context: Any) -> Any:
        collection = self._storage.find(request.collection_name)
        collection.set_payload(request.points_selector, request.payload, whole=True)
        return _completed()

    def Delete(self, request: Any, context: Any) -> Any:
        self._storage.find(request.collection_name).delete(request.points)
        return _completed()

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        collection = self._storage.find(request.collection_name)
        for operation in request.operations:  # one that fails leaves those before it done
            _apply(collection, operation)
        return pb.UpdateBatchResponse(result=[pb.UpdateResult(status=_COMPLETED)] * len(request.operations))

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        self._storage.find(request.collection_name).index(request)
        return _completed()

    def DeleteFieldIndex(self, request: Any, context: Any) -> Any:
        self._storage.find(request.collection_name).drop_index(request.field_name)
        return _completed()

    def Get(self, request: Any, context: Any) -> Any:
        keys = [translation.numeric_id(each) for each in request.ids]
        records = self._storage.find(request.collection_name).retrieve(keys)
        return pb.GetResponse(result=[_retrieved(record, request) for record in records])

    def Scroll(self, request: Any, context: Any) -> Any:
        offset = translation.numeric_id(request.offset) if request.HasField("offset") else None
        limit = request.limit if request.HasField("limit") else 10
        if limit == 0:
            raise wrong("limit: value 0 invalid, must be 1 or larger")
        chosen = request.filter if request.HasField("filter") else None
        records, following = self._storage.find(request.collection_name).scroll(chosen, offset, limit)
        answer = pb.ScrollResponse(result=[_retrieved(record, request) for record in records])
        if following is not None:
            answer.next_page_offset.num = following
        return answer

    def Count(self, request: Any, context: Any) -> Any:
        chosen = request.filter if request.HasField("filter") else None
        exact = request.exact if request.HasField("exact") else True
        count = self._storage.find(request.collection_name).count(chosen, exact=exact)
        return pb.CountResponse(result=pb.CountResult(count=count))

    def Query(self, request: Any, context: Any) -> Any:
        return pb.QueryResponse(result=self._query(request.collection_name, request))

    def QueryBatch(self, request: Any, context: Any) -> Any:
        return pb.QueryBatchResponse(
            result=[
                pb.BatchResult(result=self._query(request.collection_name, query)) for query in request.query_points
            ]
        )

    def _query(self, name: str, request: Any) -> list[Any]:
        collection = self._storage.find(name)
        found = collection.query(request)
        payloads: dict[int, Any] = {}
        if request.HasField("with_payload"):
            records = collection.retrieve([key for key, _ in found])
            payloads = {
                record.id: translation.payload_message(record.payload or {}, request.with_payload) for record in records
            }
        return [pb.ScoredPoint(id=pb.PointId(num=key), score=score, payload=payloads.get(key)) for key, score in found]


class Collections(pb.CollectionsServicer):
    """What is done with collections and aliases."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def Create(self, request: Any, context: Any) -> Any:
        self._storage.create(request)
        return pb.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:
        return pb.CollectionOperationResponse(result=self._storage.drop(request.collection_name))

    def List(self, request: Any, context: Any) -> Any:
        return pb.ListCollectionsResponse(
            collections=[pb.CollectionDescription(name=name) for name in self._storage.names()]
        )

    def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = request.collection_name in self._storage.names()
        return pb.CollectionExistsResponse(result=pb.CollectionExists(exists=exists))

    def Get(self, request: Any, context: Any) -> Any:
        collection = self._storage.find(request.collection_name)
        info = collection.info()
        schema = {
            path: pb.PayloadSchemaInfo(
                data_type=_SCHEMA_TYPES[index.data_type],
                params=translation.told_index_params(index.params),
                points=index.points,
            )
            for path, index in info.payload_schema.items()
        }
        return pb.GetCollectionInfoResponse(
            result=pb.CollectionInfo(
                status=pb.CollectionStatus.Green,
                optimizer_status=pb.OptimizerStatus(ok=True),
                segments_count=info.segments_count,
                points_count=info.points_count,
                indexed_vectors_count=info.indexed_vectors_count,
                payload_schema=schema,
                config=translation.told_config(collection.config),
            )
        )

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        self._storage.change_aliases(request.actions)
        return pb.CollectionOperationResponse(result=True)

    def ListAliases(self, request: Any, context: Any) -> Any:
        return pb.ListAliasesResponse(
            aliases=[
                pb.AliasDescription(alias_name=alias, collection_name=target)
                for alias, target in self._storage.aliases().items()
            ]
        )


class Snapshots(pb.SnapshotsServicer):
    """What is done with snapshots; restoring one is asked for over REST."""

    def __init__(self, storage: Storage, *, now_ms: Callable[[], int]) -> None:
        self._storage = storage
        self._now_ms = now_ms

    def Create(self, request: Any, context: Any) -> Any:
        name = request.collection_name
        path = self._storage.create_snapshot(name, f"{name}-{self._now_ms()}.tar")
        return pb.CreateSnapshotResponse(snapshot_description=_described(path))

    def List(self, request: Any, context: Any) -> Any:
        paths = self._storage.snapshots(request.collection_name)
        return pb.ListSnapshotsResponse(snapshot_descriptions=map(_described, paths))

    def Delete(self, request: Any, context: Any) -> Any:
        self._storage.snapshot(request.collection_name, request.snapshot_name).unlink()
        return pb.DeleteSnapshotResponse()


def _apply(collection: Collection, operation: Any) -> None:
    kind = operation.WhichOneof("operation")
    match kind:
        case "upsert":
            collection.upsert(operation.upsert.points)
        case "update_vectors":
            collection.update_vectors(operation.update_vectors.points)
        case "set_payload" | "overwrite_payload":
            change = getattr(operation, kind)
            collection.set_payload(change.points_selector, change.payload, whole=kind == "overwrite_payload")
        case "delete_points":
            collection.delete(operation.delete_points.points)
        case _:
            raise wrong(f"this server has no operation {kind}")


def _retrieved(record: Any, request: Any) -> Any:
    selector = request.with_payload if request.HasField("with_payload") else pb.WithPayloadSelector(enable=True)
    point = pb.RetrievedPoint(
        id=pb.PointId(num=record.id), payload=translation.payload_message(record.payload or {}, selector)
    )
    if request.with_vectors.enable:
        point.vectors.CopyFrom(translation.vectors_message(record.vector))
    return point


def _described(path: Path) -> Any:
    stat = path.stat()
    created = Timestamp(seconds=int(stat.st_mtime))
    digest = sha256(path.read_bytes()).hexdigest()
    return pb.SnapshotDescription(name=path.name, creation_time=created, size=stat.st_size, checksum=digest)


def _completed() -> Any:
    return pb.PointsOperationResponse(result=pb.UpdateResult(operation_id=0, status=_COMPLETED))
