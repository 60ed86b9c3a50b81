"""A bucket that cannot be used is told at the start, one that hangs or fails is told as an error of ours."""

import inspect
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import aiohttp
import pytest
from botocore import exceptions as boto  # type: ignore[import-untyped]  # it ships none
from fsspec.exceptions import FSTimeoutError
from servers.s3_server import S3Server

from servicekit.bucket import ERRORS, AccessRefusedError, Bucket
from servicekit.errors import DeadlineExceededError, NotFoundError, StartupError, UnavailableError
from servicekit.testing import free_port


def open_bucket(url: str, endpoint: str) -> Bucket:
    return Bucket(url, setting="MODEL_STORE_URL", endpoint_url=endpoint)


@pytest.fixture
def bucket(bucket_url: str, s3_server: S3Server) -> Iterator[Bucket]:
    bucket = open_bucket(bucket_url, s3_server.address)
    yield bucket
    bucket.close()


@pytest.fixture
def strict_server(s3_server: S3Server, bucket_url: str) -> Iterator[S3Server]:  # noqa: ARG001 - made before
    """The server while it knows nobody's key."""

    def let_in(requests: str) -> None:
        connection = HTTPConnection("127.0.0.1", s3_server.port)
        connection.request("POST", "/moto-api/reset-auth", requests, {"content-type": "text/plain"})
        assert connection.getresponse().status == 200
        connection.close()

    let_in("0")
    yield s3_server
    let_in("inf")


async def why_not(url: str, endpoint: str) -> str:
    """Give what the start of a service says."""
    bucket = open_bucket(url, endpoint)
    try:
        with pytest.raises(StartupError) as told:
            await bucket.wait_until_usable(0.0)
    finally:
        bucket.close()
    line = str(told.value)
    assert "\n" not in line
    return line


async def test_a_bucket_that_can_be_used_may_be_empty(bucket: Bucket) -> None:
    await bucket.wait_until_usable(0.0)
    assert bucket.folders() == []
    assert bucket.objects("x") == []


async def test_a_bucket_that_does_not_exist(s3_server: S3Server) -> None:
    line = await why_not("s3://nobody-made-it/models", s3_server.address)
    assert "no such bucket" in line
    assert "MODEL_STORE_URL" in line


async def test_keys_that_the_store_does_not_know(strict_server: S3Server, bucket_url: str) -> None:
    line = await why_not(bucket_url, strict_server.address)
    assert "refuses our keys" in line
    assert "AWS_ACCESS_KEY_ID" in line


async def test_no_keys_at_all(s3_server: S3Server, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    assert "AWS_ACCESS_KEY_ID" in await why_not(bucket_url, s3_server.address)


async def test_a_store_that_is_not_there_is_waited_for_and_told(bucket_url: str) -> None:
    line = await why_not(bucket_url, f"http://127.0.0.1:{free_port()}")
    assert "not reached within 0 s" in line
    assert "S3_ENDPOINT_URL" in line


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://UPPER/x", "s3://a b/x", "s3://bucket?x=1", "http://bucket/x"]
)
def test_an_address_that_is_malformed(url: str) -> None:
    with pytest.raises(StartupError, match="MODEL_STORE_URL"):
        open_bucket(url, "")


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://host", "http://"])
def test_an_endpoint_that_is_malformed(endpoint: str) -> None:
    with pytest.raises(StartupError, match="S3_ENDPOINT_URL"):
        open_bucket("s3://bucket/x", endpoint)


def test_objects_are_written_listed_and_deleted(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)))
    bucket.upload("a/b/file", tmp_path / "file")
    bucket.write("a/small", b"x")
    bucket.write("a2/other", b"y")
    assert [(each.name, each.size) for each in bucket.objects("a")] == [("a/b/file", 256), ("a/small", 1)]
    assert bucket.folders() == ["a", "a2"]
    assert bucket.read_part("a/b/file", 10, 13) == bytes([10, 11, 12])
    bucket.write("a/small", b"longer")
    assert bucket.read("a/small") == b"longer"
    bucket.delete([f"a/none-{number}" for number in range(1_001)] + ["a/small", "a/b/file"])
    assert bucket.folders() == ["a2"]
    for missing in ("a/small", "a"):
        with pytest.raises(NotFoundError):
            bucket.read(missing)


def test_a_store_that_hangs_costs_its_deadline_and_no_more(
    bucket_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = open_bucket(bucket_url, s3_server.address)
    bucket.write("a/x", b"before")
    monkeypatch.setattr(bucket, "_timeout_s", 0.2)
    s3_server.pause()
    try:
        for call in (lambda: bucket.read("a/x"), lambda: bucket.write("a/x", b"lost"), lambda: bucket.objects("a")):
            with pytest.raises((DeadlineExceededError, UnavailableError)):
                call()
    finally:
        s3_server.resume()
    monkeypatch.undo()
    bucket.write("a/x", b"after")
    assert bucket.read("a/x") == b"after"
    bucket.close()


def test_no_exception_of_the_driver_passes() -> None:
    kinds = [kind for kind in vars(boto).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    kinds += [FSTimeoutError, aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, OSError, PermissionError]
    untold = {
        kind
        for kind in kinds
        if not issubclass(kind, tuple(theirs for theirs, _ in ERRORS)) and not issubclass(kind, Warning)
    }
    assert {kind.__name__ for kind in untold} == {  # of the driver's own models, none can come from a call
        "UndefinedModelAttributeError",
        "MissingServiceIdError",
    }
    assert next(ours for theirs, ours in ERRORS if issubclass(boto.NoCredentialsError, theirs)) is AccessRefusedError
