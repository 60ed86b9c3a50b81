"""Every RPC on a real server."""

import numpy as np
from vector_search.testing import COUNT, TENANT, V1, V2, Replica, draft, film, key, vectors

from recommendation.vector_search.v1 import vector_search_pb2 as pb


async def test_candidates_of_a_trained_version(trained: Replica) -> None:
    keys, features, names, result = await trained.candidates([key("f10")], limit=6)
    assert names == ["cooccurrence", "transition", "content", "nearest", "factors", "log_popularity"]
    print(keys, features, result.because)
    assert set(keys[:6]) == {key(f"f{n}") for n in (7, 8, 9, 11, 12, 13)}
    assert result.model_version == V1


async def test_upsert_overlay_and_activation(replica: Replica) -> None:
    films = [film(n) for n in range(COUNT)]
    answer = await replica.upsert(films, vectors(), neighbours=5)
    for item, result in zip(films, answer.results, strict=True):
        keys, scores = np.frombuffer(result.neighbour_keys, np.int64), np.frombuffer(result.neighbour_scores, np.float32)
        assert len(keys) == 5
        await replica.embedded(item, keys.tolist(), scores.tolist())
    keys, *_ = await replica.candidates([key("f10")], limit=6)
    assert len(keys) == 6
    draft(V2).write(replica.models)
    activated = await replica.activate(V2)
    assert activated.previous_version == ""
    assert activated.recall_at_10 == 1.0
    described = await replica.describe()
    assert described.versions[0].version == V2
    keys, *_ = await replica.candidates([key("f10")], limit=6)
    assert set(keys[:6]) == {key(f"f{n}") for n in (7, 8, 9, 11, 12, 13)}
    answer = await replica.stub.SimilarItems(pb.SimilarItemsRequest(queries=[pb.SimilarItemsRequest.Query(tenant=TENANT, item_key=key("f10")), pb.SimilarItemsRequest.Query(tenant=TENANT, item_key=77)]))
    assert answer.results[1].error.code == "not_found"
    assert len(answer.results[0].item_keys) == 80
