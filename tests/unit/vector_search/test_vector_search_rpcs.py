"""Every RPC on a real server."""

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from recommendation.common.v1 import common_pb2
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from servicekit.arrays import pack_floats, pack_keys
from vector_search.testing import COUNT, TENANT, V1, V2, Replica, draft, film, key, make_item, user, vectors

ALL = [key(f"f{number}") for number in range(COUNT)]


def int64s(packed: bytes) -> list[int]:
    return list(map(int, np.frombuffer(packed, np.int64)))


def float32s(packed: bytes) -> npt.NDArray[np.float32]:
    return np.frombuffer(packed, np.float32)


def where(field: str, operator: Any, *texts: str, number: float | None = None) -> common_pb2.Filter:
    values = [common_pb2.AttributeValue(text=text) for text in texts]
    if number is not None:
        values.append(common_pb2.AttributeValue(number=number))
    return common_pb2.Filter(predicates=[common_pb2.Predicate(field=field, operator=operator, values=values)])


EQ, GTE = common_pb2.FILTER_OPERATOR_EQ, common_pb2.FILTER_OPERATOR_GTE


async def similar(replica: Replica, item: int, **changes: Any) -> pb.SimilarItemsResponse.Similar:
    query = pb.SimilarItemsRequest.Query(tenant=TENANT, item_key=item, **changes)
    answer = await replica.stub.SimilarItems(pb.SimilarItemsRequest(queries=[query]))
    (result,) = answer.results
    return result


async def nearest(replica: Replica, vector: Any, **changes: Any) -> pb.SearchByVectorResponse.Neighbours:
    query = pb.SearchByVectorRequest.Query(tenant=TENANT, vector=pack_floats(vector), **changes)
    (result,) = (await replica.stub.SearchByVector(pb.SearchByVectorRequest(queries=[query]))).results
    return result


class TestRetrieveCandidates:
    async def test_candidates_with_features_and_reasons(self, trained: Replica) -> None:
        keys, features, names, result = await trained.candidates(ALL[10:12], limit=7)
        assert names == ["cooccurrence", "transition", "content", "nearest", "factors", "log_popularity", "in_model"]
        assert result.model_version == V1
        shares = dict(zip(keys, features[0], strict=True))
        # 12 is one step after 11 and two after 10; neither decays in cooccurrence.
        assert shares[ALL[12]] == pytest.approx(1.5)
        assert keys[0] == ALL[12]
        because = dict(zip(keys, np.frombuffer(result.because, np.int32), strict=True))
        assert because[ALL[12]] == 1
        assert because[ALL[9]] == 0
        assert features[2, 0] > 0, "content counts nothing in the choice and is a feature all the same"
        assert not set(keys) & set(ALL[10:12])

    async def test_a_dislike_takes_away(self, trained: Replica) -> None:
        keys, *_ = await trained.candidates(ALL[10:12], history_weights=pack_floats([-2.0, 1.0]), limit=40)
        assert ALL[12] not in keys
        assert ALL[14] in keys

    async def test_filters_exclusions_and_history(self, trained: Replica) -> None:
        keys, *_ = await trained.candidates([ALL[10]], filter=where("genres", EQ, "comedy"), limit=3)
        assert keys
        assert all(ALL.index(each) % 3 == 1 for each in keys)
        keys, *_ = await trained.candidates([ALL[10]], filter=where("item_type", EQ, "book"))
        assert keys == []
        keys, *_ = await trained.candidates([ALL[10]], exclude_keys=pack_keys([ALL[11]]))
        assert ALL[11] not in keys
        keys, *_ = await trained.candidates(ALL[10:12], include_history=True)
        assert {ALL[10], ALL[11]} < set(keys)

    async def test_source_weights_replace_the_models(self, trained: Replica) -> None:
        weights = [pb.SourceWeight(source="transition", weight=1.0), pb.SourceWeight(source="unheard of", weight=1.0)]
        keys, features, *_ = await trained.candidates([ALL[10]], source_weights=weights)
        assert keys == [ALL[9], ALL[8], ALL[7]]
        assert not features[0].any()

    async def test_a_bad_element_does_not_harm_its_neighbours(self, trained: Replica) -> None:
        good = user([ALL[3]])
        bad = [
            user([ALL[3]], tenant=""),
            user([ALL[3]], history_keys=b"1234567"),
            user([ALL[3]], history_weights=pack_floats([float("nan")])),
            user([ALL[3]], history_weights=b""),
            user([ALL[3]], history_ages_s=pack_floats([-1.0])),
            user([ALL[3]], limit=1_001),
            user([ALL[3]], exclude_keys=pack_keys(range(10_001))),
            user([ALL[3]], filter=where("", EQ, "x")),
            user([ALL[3]], source_weights=[pb.SourceWeight(source="content", weight=float("inf"))]),
        ]
        answer = await trained.stub.RetrieveCandidates(pb.RetrieveCandidatesRequest(queries=[good, *bad, good]))
        assert [result.error.code for result in answer.results] == ["", *["invalid_argument"] * len(bad), ""]
        assert answer.results[0] == answer.results[-1]
        assert answer.results[0].item_keys
        assert [result.error.field for result in answer.results[1:4]] == ["tenant", "history_keys", "history_weights"]

    @pytest.mark.parametrize("count", [0, 257])
    async def test_a_batch_has_bounds(self, trained: Replica, count: int) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trained.stub.RetrieveCandidates(pb.RetrieveCandidatesRequest(queries=[user([])] * count))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_tenants_see_nothing_of_each_other(self, trained: Replica) -> None:
        answer = await trained.stub.RetrieveCandidates(
            pb.RetrieveCandidatesRequest(queries=[user([ALL[3]]), user([ALL[3]], tenant="other")])
        )
        mine, other = answer.results
        assert mine.item_keys
        assert not other.item_keys
        assert not other.model_version
        assert len(mine.features) == 4 * len(answer.feature_names) * len(mine.item_keys) // 8

    async def test_nearest_helps_a_short_history_and_leaves_a_long_one_alone(self, trained: Replica) -> None:
        draft(V2).write(trained.models)
        await trained.activate(V2)  # with this come the content vectors
        keys, features, *_ = await trained.candidates([ALL[10]], limit=30)
        assert len(keys) == 30
        assert features[3].any()
        keys, features, *_ = await trained.candidates(ALL[10:21], limit=30)
        assert not features[3].any()
        keys, features, *_ = await trained.candidates(ALL[10:21], limit=30, filter=where("genres", EQ, "war"))
        assert features[3].any()
        assert all(ALL.index(each) % 3 == 2 for each in keys)
        assert not set(keys) & set(ALL[10:21])

    async def test_what_is_only_near_names_the_history_item_that_it_is_like(self, trained: Replica) -> None:
        await trained.upsert([film(number) for number in range(COUNT)], vectors())
        twins = [make_item(TENANT, f"twin of {number}") for number in (10, 20)]
        await trained.upsert(twins, vectors()[[10, 20]] * 1.01)
        keys, _, _, answer = await trained.candidates([ALL[20], ALL[10]], limit=COUNT)
        because = np.frombuffer(answer.because, np.int32).tolist()
        assert [because[keys.index(key(f"twin of {number}"))] for number in (20, 10)] == [0, 1]


class TestSimilarItems:
    async def test_by_the_tables(self, trained: Replica) -> None:
        result = await similar(trained, ALL[10], limit=2)
        assert int64s(result.item_keys) == [ALL[11], ALL[9]]
        assert (np.diff(float32s(result.scores)) <= 0).all()
        assert len(result.shares) == 4 * 4 * 2
        result = await similar(trained, ALL[10], limit=5, filter=where("year", GTE, number=2001.0))
        assert int64s(result.item_keys) == [ALL[11], ALL[12], ALL[13]]

    async def test_an_item_that_only_has_a_vector(self, trained: Replica) -> None:
        await trained.upsert([film(number) for number in range(COUNT)], vectors())
        fresh = make_item(TENANT, "fresh", genres=("war",))
        await trained.upsert([fresh], vectors()[4:5] + 0.01)
        result = await similar(trained, key("fresh"), limit=4)
        assert int64s(result.item_keys)[0] == ALL[4]
        assert len(int64s(result.item_keys)) == 4

    async def test_an_unknown_item_is_not_found(self, trained: Replica) -> None:
        assert (await similar(trained, 12_345)).error.code == "not_found"
        assert (await similar(trained, ALL[1], limit=5_000)).error.code == "invalid_argument"


class TestVectors:
    async def test_upserts_answer_neighbours_and_can_be_searched(self, replica: Replica) -> None:
        films = [film(number) for number in range(COUNT)]
        answer = await replica.upsert(films, vectors(), neighbours=5)
        unit = vectors() / np.linalg.norm(vectors(), axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        for number, result in enumerate(answer.results):
            order = np.argsort(-cosines[number])[:5]
            assert int64s(result.neighbour_keys) == [ALL[each] for each in order]
            np.testing.assert_allclose(float32s(result.neighbour_scores), cosines[number][order], atol=1e-5)
        found = await nearest(replica, vectors()[7], limit=3)
        assert int64s(found.item_keys)[0] == ALL[7]
        assert float32s(found.scores)[0] == pytest.approx(1.0, abs=1e-5)
        assert (await replica.describe()).embedded_items == COUNT

    async def test_bad_vectors_are_refused_one_by_one(self, replica: Replica) -> None:
        await replica.upsert([film(0)], vectors()[:1])

        def embedding(number: int, vector: Any) -> pb.UpsertItemsRequest.Embedding:
            return pb.UpsertItemsRequest.Embedding(item=film(number), vector=pack_floats(vector), model_id="use")

        broken = embedding(5, np.ones(16))
        broken.item.attributes["empty"].Clear()
        nobody = embedding(6, np.ones(16))
        nobody.item.item_id = ""
        answer = await replica.stub.UpsertItems(
            pb.UpsertItemsRequest(
                embeddings=[
                    embedding(1, np.ones(15)),
                    embedding(2, np.full(16, np.nan)),
                    embedding(3, np.zeros(16)),
                    embedding(4, np.ones(16)),
                    broken,
                    nobody,
                ],
                neighbours=3,
            )
        )
        codes = [result.error.code for result in answer.results]
        assert codes == ["invalid_argument"] * 3 + [""] + ["invalid_argument"] * 2
        assert int64s(answer.results[3].neighbour_keys) == [ALL[0]]
        assert (await replica.describe()).embedded_items == 2

    async def test_without_a_vector_only_the_item_changes(self, replica: Replica) -> None:
        await replica.upsert([film(number) for number in range(COUNT)], vectors())
        changed = film(7, genres=("noir",))
        changed.updated_at_ms = 9_000
        answer = await replica.upsert([changed, make_item(TENANT, "fresh")], None, neighbours=2)
        assert len(int64s(answer.results[0].neighbour_keys)) == 2
        assert answer.results[1].error.code == "not_found"
        found = await nearest(replica, vectors()[7], filter=where("genres", EQ, "noir"))
        assert int64s(found.item_keys) == [ALL[7]]
        assert float32s(found.scores)[0] == pytest.approx(1.0, abs=1e-5)

    async def test_marks_tell_what_is_embedded(self, replica: Replica) -> None:
        await replica.upsert([film(1), film(2)], vectors()[1:3])
        request = pb.LookupEmbeddingsRequest(tenant=TENANT, item_keys=pack_keys([ALL[2], 99, ALL[1]]))
        marks = (await replica.stub.LookupEmbeddings(request)).marks
        assert [(mark.model_id, mark.content_hash) for mark in marks] == [
            ("use", "hash-f2"),
            ("", ""),
            ("use", "hash-f1"),
        ]

    async def test_export_gives_all_vectors_in_pages(self, replica: Replica) -> None:
        await replica.upsert([film(number) for number in range(COUNT)], vectors())
        pages = [
            page
            async for page in replica.stub.ExportEmbeddings(pb.ExportEmbeddingsRequest(tenant=TENANT, page_size=15))
        ]
        assert [len(int64s(page.item_keys)) for page in pages] == [15, 15, 10]
        keys = [each for page in pages for each in int64s(page.item_keys)]
        assert keys == sorted(ALL)
        assert {page.dimensions for page in pages} == {16}
        matrix = np.concatenate([float32s(page.vectors).reshape(-1, 16) for page in pages])
        unit = vectors() / np.linalg.norm(vectors(), axis=1, keepdims=True)
        np.testing.assert_allclose(matrix, unit[[ALL.index(each) for each in keys]], atol=1e-5)

    async def test_search_leaves_out_what_is_hidden_deleted_or_filtered(self, replica: Replica) -> None:
        await replica.upsert([film(number) for number in range(COUNT)], vectors())
        await replica.put(make_item(TENANT, "f7", hidden=True))
        await replica.delete(film(8))
        for number in (7, 8):
            found = await nearest(replica, vectors()[number], limit=COUNT)
            assert not {ALL[7], ALL[8]} & set(int64s(found.item_keys))
            assert len(int64s(found.item_keys)) == COUNT - 2
        found = await nearest(replica, vectors()[9], limit=COUNT, filter=where("genres", EQ, "comedy"), exact=True)
        assert {ALL.index(each) % 3 for each in int64s(found.item_keys)} == {1}

    async def test_bad_queries_fail_alone(self, replica: Replica) -> None:
        await replica.upsert([film(1)], vectors()[:1])
        for vector in (np.ones(15), np.full(16, np.inf), np.empty(0)):
            assert (await nearest(replica, vector)).error.code == "invalid_argument"
        assert (await nearest(replica, np.ones(16), limit=1_001)).error.code == "invalid_argument"
        assert not (await nearest(replica, np.ones(16))).error.code

    async def test_factors_are_searched_by_dot_product(self, replica: Replica) -> None:
        version = draft(V2)
        version.write(replica.models)
        await replica.activate(V2)
        assert version.factors is not None
        query = np.random.default_rng(0).standard_normal(8)
        found = await nearest(replica, query, collection=pb.COLLECTION_FACTORS, limit=5)
        products = version.factors[1] @ query.astype(np.float32)
        assert int64s(found.item_keys) == [ALL[each] for each in np.argsort(-products)[:5]]
        wars = where("genres", EQ, "war")
        found = await nearest(replica, query, collection=pb.COLLECTION_FACTORS, limit=5, filter=wars)
        best = [each for each in np.argsort(-products) if each % 3 == 2][:5]
        assert int64s(found.item_keys) == [ALL[each] for each in best]
        assert (await nearest(replica, np.ones(16), collection=pb.COLLECTION_FACTORS)).error.field == "vector"

    async def test_deleted_items_are_gone_everywhere_and_may_come_back(self, trained: Replica) -> None:
        await trained.upsert([film(11), film(12)], vectors()[11:13])
        request = pb.DeleteItemsRequest(tenant=TENANT, item_keys=pack_keys([ALL[11], 4_711]))
        await trained.stub.DeleteItems(request)
        keys, *_ = await trained.candidates([ALL[10]], limit=40)
        assert ALL[11] not in keys
        found = await nearest(trained, vectors()[11])
        assert int64s(found.item_keys) == [ALL[12]]
        await trained.put(film(11))
        keys, *_ = await trained.candidates([ALL[10]], limit=40)
        assert ALL[11] in keys

    async def test_recall_is_measured(self, replica: Replica) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replica.stub.MeasureRecall(pb.MeasureRecallRequest(tenant=TENANT))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replica.stub.MeasureRecall(pb.MeasureRecallRequest(tenant=TENANT, collection=pb.COLLECTION_FACTORS))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await replica.upsert([film(number) for number in range(COUNT)], vectors())
        answer = await replica.stub.MeasureRecall(pb.MeasureRecallRequest(tenant=TENANT, samples=20))
        assert [each.selectivity for each in answer.measurements] == [1.0, 0.1, 0.01]
        assert [each.recall for each in answer.measurements] == [1.0, 1.0, 1.0]
        assert answer.points == COUNT


class TestExplainScores:
    async def test_contributions_by_history_item_and_source(self, trained: Replica) -> None:
        query = pb.ExplainScoresRequest.Query(
            tenant=TENANT,
            history_keys=pack_keys(ALL[10:12]),
            history_weights=pack_floats([1.0, 1.0]),
            history_ages_s=pack_floats([0.0, 60.0]),
            item_keys=pack_keys([ALL[12], ALL[30], ALL[9]]),
            limit=2,
        )
        bad = pb.ExplainScoresRequest.Query(tenant=TENANT, limit=21)
        good, refused = (await trained.stub.ExplainScores(pb.ExplainScoresRequest(queries=[query, bad]))).results
        told = [(each.item_key, each.history_key, each.source, round(each.share, 3)) for each in good.contributions]
        assert told == [
            (ALL[12], ALL[11], "cooccurrence", 1.0),
            (ALL[12], ALL[10], "cooccurrence", 0.5),
            (ALL[9], ALL[10], "transition", 1.0),
            (ALL[9], ALL[11], "transition", 0.25),
        ]
        assert refused.error.code == "invalid_argument"
