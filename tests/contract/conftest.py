"""An S3 server of one's own, on this machine and in memory, for the contracts of the model store."""

from collections.abc import Iterator

import pytest
from s3fs import S3FileSystem
from servers.s3_server import S3Server
from servers.server import free_port
from servers.settings import ServersSettings


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that takes any key; it starts with the first test that asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        with S3Server(tmp_path_factory.mktemp("s3"), free_port(), ServersSettings()) as server:
            server.start()
            yield server


@pytest.fixture(scope="session")
def s3_files(s3_server: S3Server) -> Iterator[S3FileSystem]:
    """The driver, to reach around the adapters."""
    files = S3FileSystem(endpoint_url=s3_server.address, use_listings_cache=False, skip_instance_cache=True)
    yield files
    S3FileSystem.close_session(files.loop, files.s3)


@pytest.fixture
def bucket_url(s3_files: S3FileSystem, unique_name: str) -> str:
    """A prefix in an empty bucket."""
    s3_files.call_s3("create_bucket", Bucket=unique_name)
    return f"s3://{unique_name}/some/models"
