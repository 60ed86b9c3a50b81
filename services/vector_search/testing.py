"""What tests of vector_search need: small model versions as gpu_worker writes them, and a whole running service."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.arrays import Floats, pack_floats, pack_keys
from servicekit.clock import ManualClock
from servicekit.eventlog.port import EventLog, NewRecord
from servicekit.eventlog.topics import CONTENT_CHANGED, CONTENT_EMBEDDED, MODEL_PUBLISHED
from servicekit.filters import AttributeValue
from servicekit.folders import folder_name
from servicekit.identity import item_key
from servicekit.rpc.client import RpcChannel
from servicekit.testing import eventually, served
from vector_search.adapters.item_columns import ItemColumnCache
from vector_search.adapters.model_folder import FolderModelStore
from vector_search.bootstrap import VectorSearch
from vector_search.consumer import ITEM_TOPICS
from vector_search.domain.ports import DenseStore


def make_item(
    tenant: str, item_id: str, *, updated_at_ms: int = 1_000, hidden: bool = False, **fields: AttributeValue
) -> common_pb2.Item:
    """Give an item message of the type film."""
    return common_pb2.Item(
        tenant=tenant,
        item_type="film",
        item_id=item_id,
        title=f"Title of {item_id}",
        attributes={name: _value(value) for name, value in fields.items()},
        updated_at_ms=updated_at_ms,
        hidden=hidden,
    )


@dataclass(slots=True)
class VersionDraft:
    """What a version shall hold; matrices are [items, items] and [items, dimensions] in the order of `items`."""

    tenant: str
    name: str
    items: Sequence[common_pb2.Item]
    tables: Mapping[str, Floats]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    factors: tuple[Floats, Floats] | None = None
    """Fold-in and item factors."""
    vectors: Floats | None = None
    encoder: str = "use"
    log_position: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    trained_at_ms: int = 1_700_000_000_000

    def write(self, root: Path, *, active: bool = False) -> Path:
        """Write the version's folder below the model store and give it."""
        folder = root / folder_name(self.tenant) / self.name
        folder.mkdir(parents=True)
        keys = np.array([item_key(each.tenant, each.item_type, each.item_id) for each in self.items], np.int64)
        order = np.argsort(keys)
        arrays: dict[str, npt.NDArray[Any]] = {"item_keys": keys[order]}
        for name, dense in self.tables.items():
            arrays |= _table_arrays(name, np.asarray(dense)[np.ix_(order, order)])
        arrays["log_popularity"] = np.linspace(0.0, 1.0, len(keys), dtype=np.float32)
        if self.factors is not None:
            arrays |= {"fold_in": self.factors[0][order], "factors": self.factors[1][order]}
        if self.vectors is not None:
            arrays |= {"content_keys": keys[order], "content_vectors": self.vectors[order]}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
        with (folder / "items.bin").open("wb") as file:
            for place in order:
                packed = self.items[place].SerializeToString()
                file.write(_varint(len(packed)) + packed)
        manifest = self._manifest()
        manifest["checksums"] = {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        if active:
            activate(root, self.tenant, self.name)
        return folder

    def _manifest(self) -> dict[str, Any]:
        settings = {
            name: {"scale": 1.0, "retrieval_weight": 1.0, **self.settings.get(name, {})} for name in self.tables
        }
        return {
            "format": 1,
            "tenant": self.tenant,
            "version": self.name,
            "trained_at_ms": self.trained_at_ms,
            "log_position": {topic: dict(offsets) for topic, offsets in self.log_position.items()},
            "sources": {name: {"table": name, **each} for name, each in settings.items()},
            "factors": {"dimensions": self.factors[1].shape[1], "scale": 1.0} if self.factors else None,
            "item_columns": ["log_popularity"],
            "encoder": {"model_id": self.encoder, "dimensions": 0 if self.vectors is None else self.vectors.shape[1]},
            "serving": {"version": self.name, "sources": {name: {"weight": 1.0} for name in self.tables}},
        }


def activate(root: Path, tenant: str, version: str) -> None:
    """Say in the model store that a version shall serve."""
    (root / folder_name(tenant) / "active.json").write_text(json.dumps({"version": version, "previous": ""}))


def _table_arrays(name: str, dense: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    rows = [np.flatnonzero(row) for row in dense]
    rows = [row[np.argsort(-np.abs(dense[place, row]), kind="stable")] for place, row in enumerate(rows)]
    return {
        f"{name}.indptr": np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        f"{name}.indices": np.concatenate(rows).astype(np.int32),
        f"{name}.weights": np.concatenate([dense[place, row] for place, row in enumerate(rows)]).astype(np.float16),
    }


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _value(value: AttributeValue) -> common_pb2.AttributeValue:
    if isinstance(value, str):
        return common_pb2.AttributeValue(text=value)
    if isinstance(value, bool):
        return common_pb2.AttributeValue(flag=value)
    if isinstance(value, tuple):
        return common_pb2.AttributeValue(texts=common_pb2.AttributeValue.StringList(values=value))
    return common_pb2.AttributeValue(number=value)


TENANT = "acme"
COUNT = 40
GENRES = ("drama", "comedy", "war")
V1, V2, V3 = "20240101T000000-00000001", "20240102T000000-00000002", "20240103T000000-00000003"


def key(item_id: str, tenant: str = TENANT) -> int:
    """Give the key of a film."""
    return item_key(tenant, "film", item_id)


def film(number: int, **changes: object) -> common_pb2.Item:
    """Give a film with its usual attributes, or with others."""
    fields = {"genres": (GENRES[number % 3],), "year": 1990.0 + number, "kids": number % 2 == 0, **changes}
    return make_item(TENANT, f"f{number}", **fields)  # type: ignore[arg-type]  # each test's own


def vectors(count: int = COUNT, seed: int = 5) -> Floats:
    """Give the content vectors of the films, [count, 16]."""
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


def draft(name: str = V1, count: int = COUNT, **changes: object) -> VersionDraft:
    """Give a version in whose tables film i speaks for films i+1, i+2, i+3."""
    rng = np.random.default_rng(1)
    near = np.zeros((count, count), np.float32)
    for step, weight in ((1, 1.0), (2, 0.5), (3, 0.25)):
        near[np.arange(count), (np.arange(count) + step) % count] = weight
    values: dict[str, object] = {
        "items": [film(number) for number in range(count)],
        "tables": {"cooccurrence": near, "transition": near.T.copy(), "content": 0.1 * near},
        "settings": {"transition": {"half_life_items": 1.0}, "content": {"retrieval_weight": 0.0}},
        "factors": (
            rng.standard_normal((count, 8)).astype(np.float32),
            rng.standard_normal((count, 8)).astype(np.float32),
        ),
        "vectors": vectors(count),
        **changes,
    }
    return VersionDraft(TENANT, name, **values)  # type: ignore[arg-type]  # each test's own


class Replica:
    """A running service with what is behind it, and short ways to ask it."""

    def __init__(self, models: Path, log: EventLog, dense: DenseStore) -> None:
        self.models = models
        self.log = log
        self.dense = dense
        self.clock = ManualClock()
        self.stub: pb_grpc.VectorSearchServiceStub
        self.channel: RpcChannel
        versions = FolderModelStore(models, ItemColumnCache(models.parent / "columns"))
        self.service = VectorSearch(models=versions, dense=dense, log=log, clock=self.clock)

    async def put(self, *items: common_pb2.Item, at_ms: int = 2_000) -> None:
        """Say over the log that items are so."""
        for item in items:
            item.updated_at_ms = at_ms
        await self._append(
            CONTENT_CHANGED,
            [(item, events_pb2.ContentChanged(event_id="e", occurred_at_ms=at_ms, put=item)) for item in items],
        )

    async def delete(self, item: common_pb2.Item, at_ms: int = 3_000) -> None:
        """Say over the log that an item is gone."""
        ref = common_pb2.ItemRef(tenant=item.tenant, item_type=item.item_type, item_id=item.item_id)
        await self._append(
            CONTENT_CHANGED, [(item, events_pb2.ContentChanged(event_id="e", occurred_at_ms=at_ms, deleted=ref))]
        )

    async def embedded(self, item: common_pb2.Item, neighbours: Sequence[int], scores: Sequence[float]) -> None:
        """Say over the log that an item has a vector and these neighbours."""
        event = events_pb2.ContentEmbedded(
            event_id="e", item=item, neighbour_keys=pack_keys(neighbours), neighbour_scores=pack_floats(scores)
        )
        await self._append(CONTENT_EMBEDDED, [(item, event)])

    async def publish(self, version: str) -> None:
        """Say over the log that a version shall serve."""
        event = events_pb2.ModelPublished(event_id="e", tenant=TENANT, version=version)
        await self.log.producer().append([NewRecord(MODEL_PUBLISHED, TENANT, event.SerializeToString())])

    async def upsert(
        self, items: Sequence[common_pb2.Item], matrix: Floats | None, *, neighbours: int = 0, model_id: str = "use"
    ) -> pb.UpsertItemsResponse:
        """Write vectors, or only the items when there are none."""
        embeddings = [
            pb.UpsertItemsRequest.Embedding(
                item=item,
                vector=b"" if matrix is None else pack_floats(matrix[place]),
                model_id=model_id,
                content_hash=f"hash-{item.item_id}",
            )
            for place, item in enumerate(items)
        ]
        answer: pb.UpsertItemsResponse = await self.stub.UpsertItems(
            pb.UpsertItemsRequest(embeddings=embeddings, neighbours=neighbours)
        )
        return answer

    async def activate(self, version: str) -> pb.ActivateVersionResponse:
        """Activate a version."""
        answer: pb.ActivateVersionResponse = await self.stub.ActivateVersion(
            pb.ActivateVersionRequest(tenant=TENANT, version=version)
        )
        return answer

    async def describe(self) -> pb.DescribeVersionsResponse:
        """Ask for the versions held."""
        answer: pb.DescribeVersionsResponse = await self.stub.DescribeVersions(
            pb.DescribeVersionsRequest(tenant=TENANT)
        )
        return answer

    async def candidates(
        self, history: Sequence[int], **changes: object
    ) -> tuple[list[int], Floats, list[str], pb.RetrieveCandidatesResponse.Candidates]:
        """Ask for one user's candidates; give keys, features, their names and the whole answer."""
        answer = await self.stub.RetrieveCandidates(pb.RetrieveCandidatesRequest(queries=[user(history, **changes)]))
        (result,) = answer.results
        keys = np.frombuffer(result.item_keys, np.int64)
        features = np.frombuffer(result.features, np.float32).reshape(len(answer.feature_names), len(keys))
        return keys.tolist(), features, list(answer.feature_names), result

    async def settled(self) -> None:
        """Wait until the log so far is applied."""
        end = await self.log.end_offsets(ITEM_TOPICS)
        follower = self.service.follower

        def applied() -> bool:
            return follower is not None and all(follower.applied.get(each, 0) >= end[each] for each in end)

        await eventually(applied)

    async def _append(self, topic: str, events: Sequence[tuple[common_pb2.Item, Message]]) -> None:
        await self.log.producer().append(
            [
                NewRecord(topic, f"{item.tenant}/{item.item_type}/{item.item_id}", event.SerializeToString())
                for item, event in events
            ]
        )
        await self.settled()


def user(history: Sequence[int], **changes: object) -> pb.RetrieveCandidatesRequest.Query:
    """Give the query of a user who touched these, the last first, a minute apart."""
    values: dict[str, object] = {
        "tenant": TENANT,
        "history_keys": pack_keys(history),
        "history_weights": pack_floats(np.ones(len(history))),
        "history_ages_s": pack_floats(np.arange(len(history)) * 60.0),
        **changes,
    }
    return pb.RetrieveCandidatesRequest.Query(**values)  # type: ignore[arg-type]  # each test's own


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    """Run a service on a free port until the block is left."""
    follower = await replica.service.start()
    stop = asyncio.Event()
    works = [follower.run(stop), replica.service.activate_published()]
    if replica.dense.is_shared:
        works.append(replica.service.follow_collections())
    tasks = [asyncio.create_task(work) for work in works]

    def register(server: Any) -> None:
        pb_grpc.add_VectorSearchServiceServicer_to_server(replica.service.servicer(), server)

    try:
        await follower.caught_up.wait()
        async with served(register) as (_, channel):
            replica.channel = channel
            replica.stub = pb_grpc.VectorSearchServiceStub(channel.channel)
            yield replica
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        replica.service.close()
