"""Messages of the gRPC API to what qdrant-edge takes, and back."""

import math
from collections.abc import Mapping
from typing import Any

import qdrant_edge
from qdrant_client import grpc as pb
from qdrant_client.conversions.conversion import grpc_to_payload, json_to_value

from servers.qdrant.refusals import wrong

_DISTANCES = {
    pb.Distance.Cosine: qdrant_edge.Distance.Cosine,
    pb.Distance.Dot: qdrant_edge.Distance.Dot,
    pb.Distance.Euclid: qdrant_edge.Distance.Euclid,
    pb.Distance.Manhattan: qdrant_edge.Distance.Manhattan,
}
_DEFAULT_M, _DEFAULT_EF, _DEFAULT_FULL_SCAN_KB, _DEFAULT_INDEXING_KB = 16, 100, 10_000, 10_000


def vector_params(config: pb.CreateCollection) -> pb.VectorParams:
    """Give the parameters of the one unnamed vector that collections here have."""
    if config.vectors_config.WhichOneof("config") != "params":
        raise wrong("this server keeps collections of one unnamed vector")
    params: pb.VectorParams = config.vectors_config.params
    if params.size == 0 or params.distance not in _DISTANCES:
        raise wrong("a vector needs a size and a distance")
    return params


def edge_config(config: pb.CreateCollection) -> Any:
    """Give what qdrant-edge makes a collection of."""
    params = vector_params(config)
    hnsw = pb.HnswConfigDiff()
    hnsw.MergeFrom(config.hnsw_config)
    hnsw.MergeFrom(params.hnsw_config)
    int8 = None
    if is_quantized(config):
        int8 = qdrant_edge.ScalarQuantizationConfig(qdrant_edge.ScalarType.Int8, memory=qdrant_edge.Memory.Pinned)
    optimizers = config.optimizers_config
    return qdrant_edge.EdgeConfig(
        vectors=qdrant_edge.EdgeVectorParams(size=params.size, distance=_DISTANCES[params.distance]),
        hnsw_config=qdrant_edge.HnswIndexConfig(
            hnsw.m if hnsw.HasField("m") else _DEFAULT_M,
            hnsw.ef_construct or _DEFAULT_EF,
            full_scan_threshold=hnsw.full_scan_threshold or _DEFAULT_FULL_SCAN_KB,
            payload_m=hnsw.payload_m if hnsw.HasField("payload_m") else None,
        ),
        quantization_config=int8,
        optimizers=qdrant_edge.EdgeOptimizersConfig(
            default_segment_number=1, indexing_threshold=optimizers.indexing_threshold or _DEFAULT_INDEXING_KB
        ),
    )


def told_config(config: pb.CreateCollection) -> pb.CollectionConfig:
    """Give a collection's configuration as it is told, with the values that were left to the server."""
    hnsw = pb.HnswConfigDiff(m=_DEFAULT_M, ef_construct=_DEFAULT_EF, full_scan_threshold=_DEFAULT_FULL_SCAN_KB)
    hnsw.MergeFrom(config.hnsw_config)
    optimizers = pb.OptimizersConfigDiff(
        deleted_threshold=0.2, vacuum_min_vector_number=1_000, default_segment_number=1, flush_interval_sec=5
    )
    optimizers.MergeFrom(config.optimizers_config)
    return pb.CollectionConfig(
        params=pb.CollectionParams(
            shard_number=config.shard_number or 1,
            on_disk_payload=config.on_disk_payload,
            replication_factor=config.replication_factor or 1,
            write_consistency_factor=config.write_consistency_factor or 1,
            vectors_config=config.vectors_config,
        ),
        hnsw_config=hnsw,
        optimizer_config=optimizers,
        wal_config=pb.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
        quantization_config=config.quantization_config if config.HasField("quantization_config") else None,
    )


def indexing_kilobytes(config: pb.CreateCollection) -> int:
    """Give how many kilobytes of vectors are left unindexed."""
    return int(config.optimizers_config.indexing_threshold) or _DEFAULT_INDEXING_KB


def is_quantized(config: pb.CreateCollection) -> bool:
    """Tell whether vectors are also kept as int8."""
    quantization = config.quantization_config
    if vector_params(config).HasField("quantization_config"):
        quantization = vector_params(config).quantization_config
    return quantization.WhichOneof("quantization") == "scalar"


def numeric_id(point_id: pb.PointId) -> int:
    """Give the number of a point; this server keeps no UUIDs."""
    if point_id.WhichOneof("point_id_options") != "num":
        raise wrong("this server keeps points by number")
    return int(point_id.num)


def dense_vector(vector: pb.Vector) -> list[float]:
    """Read a vector in the new or the old form."""
    return list(vector.dense.data) if vector.WhichOneof("vector") == "dense" else list(vector.data)


def payload_of(fields: Any) -> dict[str, Any]:
    """Read a payload."""
    payload: dict[str, Any] = grpc_to_payload(fields)
    return payload


def payload_message(payload: Mapping[str, Any], selector: pb.WithPayloadSelector | None) -> dict[str, pb.Value]:
    """Write as much of a payload as was asked for."""
    kind = selector.WhichOneof("selector_options") if selector is not None else None
    if selector is None or kind is None or (kind == "enable" and not selector.enable):
        return {}
    if kind == "include":
        payload = {name: payload[name] for name in selector.include.fields if name in payload}
    elif kind == "exclude":
        payload = {name: value for name, value in payload.items() if name not in selector.exclude.fields}
    return {name: json_to_value(value) for name, value in payload.items()}


def vectors_message(vector: list[float]) -> pb.VectorsOutput:
    """Write a vector in the new form and the old one, as servers have done since 1.12."""
    return pb.VectorsOutput(vector=pb.VectorOutput(data=vector, dense=pb.DenseVector(data=vector)))


def index_params(request: pb.CreateFieldIndexCollection) -> Any:
    """Give the payload index that is asked for."""
    params = request.field_index_params
    match params.WhichOneof("index_params"):
        case "keyword_index_params":
            return qdrant_edge.KeywordIndexParams(is_tenant=params.keyword_index_params.is_tenant or None)
        case "float_index_params":
            has = params.float_index_params.HasField("enable_hnsw")
            return qdrant_edge.FloatIndexParams(enable_hnsw=params.float_index_params.enable_hnsw if has else None)
    match request.field_type:
        case pb.FieldType.FieldTypeKeyword:
            return qdrant_edge.KeywordIndexParams()
        case pb.FieldType.FieldTypeFloat:
            return qdrant_edge.FloatIndexParams()
    raise wrong("this server makes keyword and float indexes")


def told_index_params(params: Any) -> pb.PayloadIndexParams:
    """Write how a payload index was made."""
    if isinstance(params, qdrant_edge.KeywordIndexParams):
        return pb.PayloadIndexParams(keyword_index_params=pb.KeywordIndexParams(is_tenant=params.is_tenant))
    return pb.PayloadIndexParams(float_index_params=pb.FloatIndexParams(enable_hnsw=params.enable_hnsw))


def filter_of(message: pb.Filter | None) -> Any:
    """Translate a filter; None lets everything pass."""
    if message is None or not (message.must or message.must_not or message.should):
        return None
    return qdrant_edge.Filter(
        must=[_condition(each) for each in message.must] or None,
        must_not=[_condition(each) for each in message.must_not] or None,
        should=[_condition(each) for each in message.should] or None,
    )


def search_params(message: pb.SearchParams) -> Any:
    """Translate how a search goes."""
    quantization = message.quantization
    return qdrant_edge.SearchParams(
        hnsw_ef=message.hnsw_ef or None,
        exact=message.exact,
        quantization=qdrant_edge.QuantizationSearchParams(
            ignore=quantization.ignore,
            rescore=quantization.rescore if quantization.HasField("rescore") else None,
            oversampling=quantization.oversampling or None,
        ),
    )


def is_coarse(message: pb.SearchParams) -> bool:
    """Tell whether a search of int8 vectors gives the scores of these: it does unless told to score again."""
    return not (message.exact or message.quantization.rescore or message.quantization.ignore)


def _condition(message: pb.Condition) -> Any:
    match message.WhichOneof("condition_one_of"):
        case "field":
            return _field_condition(message.field)
        case "has_id":
            ids: set[Any] = {numeric_id(each) for each in message.has_id.has_id}
            # The engine takes an empty set for no condition; a server finds nothing.
            return qdrant_edge.HasIdCondition(ids or {2**64 - 1})
        case "filter":
            return filter_of(message.filter) or qdrant_edge.Filter(must=[])
        case "is_empty":
            return qdrant_edge.IsEmptyCondition(message.is_empty.key)
    raise wrong(f"this server has no condition {message.WhichOneof('condition_one_of')}")


def _field_condition(message: pb.FieldCondition) -> Any:
    if message.HasField("range"):
        bounds = {
            name: getattr(message.range, name)
            for name in ("lt", "gt", "gte", "lte")
            if message.range.HasField(name) and not math.isnan(getattr(message.range, name))
        }
        return qdrant_edge.FieldCondition(message.key, range=qdrant_edge.RangeFloat(**bounds))
    match message.match.WhichOneof("match_value"):
        case "keyword":
            return qdrant_edge.FieldCondition(message.key, match=qdrant_edge.MatchValue(message.match.keyword))
        case "keywords":
            words = list(message.match.keywords.strings)
            return qdrant_edge.FieldCondition(message.key, match=qdrant_edge.MatchAny(words))
    raise wrong(f"this server cannot match {message.key} so")
