"""The server's folder: collections as qdrant-edge shards, aliases in one file; whole after kill -9."""

import json
import os
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import qdrant_edge
from qdrant_client import grpc as pb

from servers.qdrant import translation
from servers.qdrant.refusals import exists_already, not_found, wrong

_BUILDING = ".building"
_TIES = 64


class Collection:
    """One collection; every method is blocking and takes the collection's lock.

    Vectors that are not finite are accepted, as by a real server, but kept out of the engine, whose log they would
    spoil; they come first in every search, as from a real server.
    """

    def __init__(self, folder: Path, config: pb.CreateCollection) -> None:
        self.folder = folder
        self.config = config
        self.params = translation.vector_params(config)
        self._shard = qdrant_edge.EdgeShard.load(str(folder / "shard"))
        self._lock = threading.RLock()
        self._spoilt: set[int] = set()
        self._unindexed_kb = 0.0
        self._random = random.Random(0)

    @classmethod
    def create(cls, folder: Path, config: pb.CreateCollection) -> "Collection":
        """Make an empty collection, as if in one step."""
        building = folder.with_name(f"{_BUILDING}-{folder.name}")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        qdrant_edge.EdgeShard.create(str(building / "shard"), translation.edge_config(config)).close()
        (building / "config.pb").write_bytes(config.SerializeToString())
        building.rename(folder)
        return cls(folder, config)

    @classmethod
    def load(cls, folder: Path) -> "Collection":
        """Open a collection."""
        return cls(folder, pb.CreateCollection.FromString((folder / "config.pb").read_bytes()))

    def close(self) -> None:
        """Write everything down."""
        with self._lock:
            self._shard.close()

    def pack(self, target: Path) -> None:
        """Write a snapshot."""
        with self._lock:
            self._shard.flush()
            shutil.make_archive(str(target.with_suffix("")), "tar", self.folder)

    def info(self) -> Any:
        """Give the engine's figures."""
        with self._lock:
            return self._shard.info()

    def upsert(self, points: Sequence[pb.PointStruct]) -> None:
        """Store all points, or none when one is wrong."""
        read = [self._read_point(point) for point in points]
        with self._lock:
            for key, vector, _ in read:
                (self._spoilt.discard if _is_finite(vector) else self._spoilt.add)(key)
            self._update(
                qdrant_edge.UpdateOperation.upsert_points(
                    [qdrant_edge.Point(key, self._sound(vector), payload) for key, vector, payload in read]
                )
            )
            self._unindexed_kb += len(read) * self.params.size * 4 / 1024
            if self._unindexed_kb > translation.indexing_kilobytes(self.config):
                self._shard.optimize()
                self._shard.flush()
                self._unindexed_kb = 0.0

    def update_vectors(self, points: Sequence[pb.PointVectors]) -> None:
        """Replace vectors of existing points."""
        read = [(translation.numeric_id(each.id), self._read_vector(each.vectors)) for each in points]
        with self._lock:
            self._require([key for key, _ in read])
            self._update(
                qdrant_edge.UpdateOperation.update_vectors(
                    [qdrant_edge.PointVectors(key, self._sound(vector)) for key, vector in read]
                )
            )

    def set_payload(self, selector: pb.PointsSelector, fields: Any, *, whole: bool) -> None:
        """Replace these fields of the payload, or all of it."""
        payload = translation.payload_of(fields)
        operations = qdrant_edge.UpdateOperation
        with self._lock:
            if selector.WhichOneof("points_selector_one_of") == "filter":
                chosen = translation.filter_of(selector.filter)
                change = operations.overwrite_payload_by_filter if whole else operations.set_payload_by_filter
                self._update(change(chosen, payload))
                return
            keys: list[Any] = [translation.numeric_id(each) for each in selector.points.ids]
            self._require(keys)
            self._update((operations.overwrite_payload if whole else operations.set_payload)(keys, payload))

    def delete(self, selector: pb.PointsSelector) -> None:
        """Remove points; those that are not there are passed over."""
        with self._lock:
            if selector.WhichOneof("points_selector_one_of") == "filter":
                chosen = translation.filter_of(selector.filter)
                if chosen is None:
                    raise wrong("an empty filter would remove everything")
                self._update(qdrant_edge.UpdateOperation.delete_points_by_filter(chosen))
                return
            keys: list[Any] = [translation.numeric_id(each) for each in selector.points.ids]
            self._spoilt.difference_update(keys)
            self._update(qdrant_edge.UpdateOperation.delete_points(keys))

    def index(self, request: pb.CreateFieldIndexCollection) -> None:
        """Make a payload index; one of another type is replaced."""
        with self._lock:
            self._update(
                qdrant_edge.UpdateOperation.create_field_index(request.field_name, translation.index_params(request))
            )

    def drop_index(self, path: str) -> None:
        """Remove a payload index; none of that path is no error."""
        with self._lock:
            self._update(qdrant_edge.UpdateOperation.delete_field_index(path))

    def retrieve(self, keys: Sequence[int]) -> list[Any]:
        """Give points in the order asked, each once; those that are not there are left out."""
        wanted: list[Any] = list(dict.fromkeys(keys))
        with self._lock:
            found = {record.id: record for record in self._shard.retrieve(wanted, True, True)}
        return [found[key] for key in wanted if key in found]

    def scroll(self, chosen: pb.Filter | None, offset: int | None, limit: int) -> tuple[list[Any], int | None]:
        """Give points by rising id from an id on, and the id that comes next."""
        request = qdrant_edge.ScrollRequest(
            offset=offset, limit=limit, filter=translation.filter_of(chosen), with_payload=True, with_vector=True
        )
        with self._lock:
            found, following = self._shard.scroll(request)
        return found, following if isinstance(following, int) else None

    def count(self, chosen: pb.Filter | None, *, exact: bool) -> int:
        """Count points."""
        with self._lock:
            return int(self._shard.count(qdrant_edge.CountRequest(filter=translation.filter_of(chosen), exact=exact)))

    def query(self, request: pb.QueryPoints) -> list[tuple[int, float]]:
        """Search; ties come in any order, and the list is cut inside them."""
        vector, source = self._query_vector(request.query)
        limit = int(request.limit) if request.HasField("limit") else 10
        if limit == 0:
            raise wrong("limit: value 0 invalid, must be 1 or larger")
        with self._lock:
            found = self._shard.search(
                qdrant_edge.SearchRequest(
                    qdrant_edge.Query.Nearest(vector),
                    limit + _TIES,
                    filter=translation.filter_of(request.filter),
                    params=translation.search_params(request.params),
                    with_payload=False,
                    with_vector=False,
                )
            )
            spoilt = set(self._spoilt)
        coarse = translation.is_quantized(self.config) and translation.is_coarse(request.params)
        scored = [
            (int(point.id), round(point.score, 2) if coarse else float(point.score))
            for point in found
            if point.id != source
        ]
        self._random.shuffle(scored)
        scored.sort(key=lambda each: (each[0] not in spoilt, -each[1]))
        return [(key, float("nan") if key in spoilt else score) for key, score in scored[:limit]]

    def _query_vector(self, query: pb.Query) -> tuple[list[float], int | None]:
        if query.WhichOneof("variant") != "nearest":
            raise wrong("this server searches what is nearest")
        if query.nearest.WhichOneof("variant") == "id":
            source = translation.numeric_id(query.nearest.id)
            self._require([source])
            return list(self.retrieve([source])[0].vector), source
        return self._checked(list(query.nearest.dense.data)), None

    def _read_point(self, point: pb.PointStruct) -> tuple[int, list[float], dict[str, Any]]:
        return translation.numeric_id(point.id), self._read_vector(point.vectors), translation.payload_of(point.payload)

    def _read_vector(self, vectors: pb.Vectors) -> list[float]:
        if vectors.WhichOneof("vectors_options") != "vector":
            raise wrong("Not existing vector name error")
        return self._checked(translation.dense_vector(vectors.vector))

    def _checked(self, vector: list[float]) -> list[float]:
        if len(vector) != self.params.size:
            raise wrong(f"Vector dimension error: expected dim: {self.params.size}, got {len(vector)}")
        return vector

    def _sound(self, vector: list[float]) -> list[float]:
        return vector if _is_finite(vector) else [1.0] * len(vector)

    def _require(self, keys: Sequence[int]) -> None:
        there = {record.id for record in self._shard.retrieve(list(keys), False, False)}
        for key in keys:
            if key not in there:
                raise not_found(f"No point with id {key} found: it")

    def _update(self, operation: Any) -> None:
        self._shard.update(operation)
        self._shard.flush()


class Storage:
    """All collections and aliases; used by one process at a time, from many threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._collections: dict[str, Collection] = {}
        self._aliases: dict[str, str] = {}
        for part in ("collections", "snapshots"):
            (root / part).mkdir(parents=True, exist_ok=True)
        for folder in sorted((root / "collections").iterdir()):
            if folder.name.startswith(_BUILDING):
                shutil.rmtree(folder)
            else:
                self._collections[unquote(folder.name)] = Collection.load(folder)
        if (root / "aliases.json").exists():
            self._aliases = json.loads((root / "aliases.json").read_text(encoding="utf-8"))

    def close(self) -> None:
        """Write everything down."""
        with self._lock:
            while self._collections:
                self._collections.popitem()[1].close()

    def names(self) -> list[str]:
        """Give the collections."""
        with self._lock:
            return sorted(self._collections)

    def aliases(self) -> dict[str, str]:
        """Give the aliases with what they point to."""
        with self._lock:
            return dict(self._aliases)

    def find(self, name: str) -> Collection:
        """Give a collection by its name or an alias of it."""
        with self._lock:
            collection = self._collections.get(self._aliases.get(name, name))
        if collection is None:
            raise not_found(f"Collection `{name}`")
        return collection

    def create(self, config: pb.CreateCollection) -> None:
        """Make a collection."""
        name = config.collection_name
        with self._lock:
            if name in self._collections or name in self._aliases:
                raise exists_already(f"Collection `{name}`")
            self._collections[name] = Collection.create(self._folder(name), config)

    def drop(self, name: str) -> bool:
        """Remove a collection and the aliases that point to it; tell whether there was one."""
        with self._lock:
            collection = self._collections.pop(name, None)
            if collection is None:
                return False
            collection.close()
            doomed = self._folder(name).with_name(f"{_BUILDING}-dropped-{quote(name, safe='')}")
            self._folder(name).rename(doomed)
            shutil.rmtree(doomed)
            self._write_aliases({alias: target for alias, target in self._aliases.items() if target != name})
            return True

    def change_aliases(self, actions: Sequence[pb.AliasOperations]) -> None:
        """Change aliases one after the other; what came before one that fails stays changed."""
        with self._lock:
            for action in actions:
                self._change_alias(action)

    def snapshots(self, name: str) -> Iterator[Path]:
        """Give the snapshots of a collection."""
        self.find(name)
        return iter(sorted(self._snapshots(name).glob("*.tar")))

    def snapshot(self, name: str, snapshot: str) -> Path:
        """Give a snapshot by its name."""
        path = self._snapshots(name) / snapshot
        if not path.is_file():
            raise not_found(f"Snapshot `{snapshot}`")
        return path

    def create_snapshot(self, name: str, snapshot: str) -> Path:
        """Write a snapshot of a collection."""
        collection = self.find(name)
        path = self._snapshots(name) / snapshot
        path.parent.mkdir(parents=True, exist_ok=True)
        collection.pack(path)
        return path

    def restore(self, name: str, packed: Path) -> None:
        """Put a collection into the state of a snapshot; it is made when there is none."""
        with self._lock:
            if (old := self._collections.pop(name, None)) is not None:
                old.close()
                # The engine may still write a last file there, which must not get in the way of what comes.
                gone = self._folder(name).with_name(f"{_BUILDING}-gone-{quote(name, safe='')}")
                self._folder(name).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            building = self._folder(name).with_name(f"{_BUILDING}-{quote(name, safe='')}")
            shutil.rmtree(building, ignore_errors=True)
            shutil.unpack_archive(packed, building)
            building.rename(self._folder(name))
            self._collections[name] = Collection.load(self._folder(name))

    def _change_alias(self, action: pb.AliasOperations) -> None:
        aliases = dict(self._aliases)
        match action.WhichOneof("action"):
            case "create_alias":
                wanted = action.create_alias
                if wanted.collection_name not in self._collections:
                    raise not_found(f"Collection `{wanted.collection_name}`")
                if wanted.alias_name in self._collections:
                    raise exists_already(f"Collection `{wanted.alias_name}`")
                aliases[wanted.alias_name] = wanted.collection_name
            case "delete_alias":
                aliases.pop(action.delete_alias.alias_name, None)
            case "rename_alias":
                renamed = action.rename_alias
                if renamed.old_alias_name not in aliases:
                    raise not_found(f"Alias `{renamed.old_alias_name}`")
                aliases[renamed.new_alias_name] = aliases.pop(renamed.old_alias_name)
        self._write_aliases(aliases)

    def _write_aliases(self, aliases: dict[str, str]) -> None:
        fresh = self._root / ".aliases.json"
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(aliases, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._root / "aliases.json")
        self._aliases = aliases

    def _folder(self, name: str) -> Path:
        return self._root / "collections" / quote(name, safe="")

    def _snapshots(self, name: str) -> Path:
        return self._root / "snapshots" / quote(name, safe="")


def _is_finite(vector: Sequence[float]) -> bool:
    return all(abs(value) < float("inf") for value in vector)
