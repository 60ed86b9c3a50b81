"""The training process leaves its version in the bucket, and vector_search reads what it left."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from servers.s3_server import S3Server

from gpu_worker.adapters.bucket_model_store import BucketModelStore
from gpu_worker.adapters.training_process import ProcessTrainer
from gpu_worker.domain.ports import TrainingJob
from gpu_worker.domain.training import HoldOut, MethodChoice, TrainingData, TrainingItem
from recommendation.common.v1 import common_pb2
from servicekit.bucket import Bucket
from servicekit.errors import FailedPreconditionError
from servicekit.identity import item_key
from vector_search.adapters.item_columns import ItemColumnCache
from vector_search.adapters.model_bucket import BucketModelStore as ReadingBucket

BASELINE = Path(__file__).parents[2] / "unit" / "gpu_worker" / "training_baseline.py"
TENANT, VERSION = "t", "20260101T000000-00000001"


@pytest.fixture
def bucket(bucket_url: str, s3_server: S3Server) -> Iterator[Bucket]:
    bucket = Bucket(bucket_url, setting="MODEL_STORE_URL", endpoint_url=s3_server.address)
    yield bucket
    bucket.close()


def trainer(url: str, server: S3Server, spool: Path) -> ProcessTrainer:
    return ProcessTrainer(
        spool,
        model_store_url=url,
        s3_endpoint_url=server.address,
        methods=MethodChoice(threads=1),
        command=(sys.executable, str(BASELINE)),
    )


def job() -> TrainingJob:
    items = sorted((item_key(TENANT, "film", str(number)), str(number)) for number in range(20))
    keys = np.array([key for key, _ in items], np.int64)
    vectors = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    data = TrainingData(
        item_keys=keys,
        items=[TrainingItem("film", item_id) for _, item_id in items],
        user_keys=np.repeat(np.arange(10, dtype=np.int64), 4),
        interaction_keys=np.random.default_rng(2).choice(keys, 40),
        weights=np.ones(40, np.float32),
        times_ms=np.arange(40, dtype=np.int64),
        vector_keys=keys,
        vectors=vectors,
    )
    packed = [
        common_pb2.Item(tenant=TENANT, item_type="film", item_id=item_id).SerializeToString() for _, item_id in items
    ]
    origin = {"trained_at_ms": 1, "log_position": {}, "encoder": {"model_id": "none/1", "dimensions": 4}}
    return TrainingJob(TENANT, VERSION, HoldOut.TIME, 1, data, packed, origin)


async def test_a_training_process_writes_into_the_bucket(
    bucket: Bucket, bucket_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    stages: list[str] = []
    await trainer(bucket_url, s3_server, tmp_path / "spool").train(job(), lambda stage, _: stages.append(stage))
    assert stages[-1] == "writing the version"
    assert not list((tmp_path / "spool").iterdir())
    written = BucketModelStore(bucket, staging=tmp_path / "staging")
    assert written.versions(TENANT) == [VERSION]
    reading = ReadingBucket(bucket, tmp_path / "versions", ItemColumnCache(tmp_path / "columns"))
    version = await reading.load(TENANT, VERSION, verify=True)
    assert version.items.keys.tolist() == job().data.item_keys.tolist()
    await reading.close()


async def test_a_bucket_that_went_away_fails_the_training_with_a_reason(s3_server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="no such bucket"):
        await trainer("s3://nobody-made-it", s3_server, tmp_path / "spool").train(job(), lambda *_: None)
