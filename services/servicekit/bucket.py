"""A part of an S3 bucket as named objects: blocking calls with deadlines, the driver's errors as ours.

For threads, never for the event loop. It needs the package s3fs, which the extras of its users bring along. Keys come
from where the AWS tools look for them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or the machine's role.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from botocore import exceptions as boto  # type: ignore[import-untyped]  # it ships none
from fsspec.exceptions import FSTimeoutError
from s3fs import S3FileSystem

from servicekit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    ServiceError,
    StartupError,
    UnavailableError,
)

_CONNECT_S = 3.0
_BYTES_PER_S = 1 << 20  # a transfer slower than this hangs
_MOST_DELETED = 1_000  # of one request, says S3
_LOOK_AGAIN_S = 0.5
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class AccessRefusedError(UnavailableError):
    """The keys are wrong, or may not do this."""


# The first that fits. What is left of the driver's errors is about how it is set up.
ERRORS: Sequence[tuple[type[BaseException], type[ServiceError]]] = (
    (FSTimeoutError, DeadlineExceededError),
    (TimeoutError, DeadlineExceededError),
    (FileNotFoundError, NotFoundError),
    (PermissionError, AccessRefusedError),
    (boto.NoCredentialsError, AccessRefusedError),
    (boto.PartialCredentialsError, AccessRefusedError),
    (boto.HTTPClientError, UnavailableError),
    (boto.ConnectionError, UnavailableError),
    (boto.IncompleteReadError, UnavailableError),
    (boto.FlexibleChecksumError, UnavailableError),
    (boto.ChecksumError, UnavailableError),
    (boto.CredentialRetrievalError, UnavailableError),
    (boto.TokenRetrievalError, UnavailableError),
    (boto.MetadataRetrievalError, UnavailableError),
    (boto.ClientError, UnavailableError),
    (aiohttp.ClientError, UnavailableError),
    (OSError, UnavailableError),
    (boto.BotoCoreError, FailedPreconditionError),
)


class Stored(NamedTuple):
    """An object: its name below the bucket's prefix, its bytes, when it was written by the store's clock."""

    name: str
    size: int
    written_ms: int


class Bucket:
    """The objects of `s3://BUCKET/PREFIX`; what is read is never older than the last write that was finished.

    Every call may raise UnavailableError or DeadlineExceededError. Of two writers of one name the last one wins.

    Args:
        url: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
        setting: The name of the setting that says so, for messages.
        endpoint_url: Where the store answers; empty for AWS.
        timeout_s: Seconds that a small call may take; a transfer gets a second more for each MiB.

    Raises:
        StartupError: One of the addresses is malformed.
    """

    def __init__(self, url: str, *, setting: str, endpoint_url: str = "", timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
            raise StartupError(f"{setting} is {url!r}: write s3://BUCKET/PREFIX")
        endpoint = urlsplit(endpoint_url)
        if endpoint_url and (endpoint.scheme not in {"http", "https"} or not endpoint.netloc):
            raise StartupError(f"S3_ENDPOINT_URL is {endpoint_url!r}: write http://HOST:PORT or https://HOST")
        self._url = url
        self._setting = setting
        self._place = endpoint_url or "AWS"
        self._bucket = parts.netloc
        self._prefix = "/".join(part for part in parts.path.split("/") if part)
        self._timeout_s = timeout_s
        self._files = S3FileSystem(
            endpoint_url=endpoint_url or None,
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "connect_timeout": _CONNECT_S,
                "read_timeout": timeout_s,
                "retries": {"mode": "standard", "total_max_attempts": 3},
            },
        )

    async def wait_until_usable(self, wait_s: float) -> None:
        """See at a start that the bucket is there and the keys fit.

        Raises:
            StartupError: They do not, or the store was not reached in time.
        """
        give_up = time.monotonic() + wait_s
        while True:
            try:
                return await asyncio.to_thread(self._look)
            except AccessRefusedError as error:
                raise self._no_start(
                    f"refuses our keys ({error.message})",
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do",
                ) from error
            except NotFoundError as error:
                raise self._no_start("has no such bucket", f"create it or correct {self._setting}") from error
            except FailedPreconditionError as error:
                raise self._no_start(f"cannot be used ({error.message})", "correct the AWS_ variables") from error
            except ServiceError as error:
                if time.monotonic() >= give_up:
                    raise self._no_start(
                        f"was not reached within {wait_s:g} s ({error.message})",
                        "start the store or correct S3_ENDPOINT_URL",
                    ) from error
            await asyncio.sleep(_LOOK_AGAIN_S)

    def read(self, name: str) -> bytes:
        """Read a small object.

        Raises:
            NotFoundError: There is none of that name.
        """
        with _errors(name):
            content: bytes = self._files.cat_file(self._path(name), max_concurrency=1, timeout=self._timeout_s)
            return content

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        """Read the bytes from `begin` to before `end`, which must be there.

        Raises:
            NotFoundError: There is no object of that name.
        """
        with _errors(name):
            content: bytes = self._files.cat_file(
                self._path(name), start=begin, end=end, timeout=self._transfer_s(end - begin)
            )
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small object in one request: whoever reads sees the old one or this."""
        with _errors(name):
            self._files.pipe_file(self._path(name), content, timeout=self._timeout_s)

    def upload(self, name: str, file: Path) -> None:
        """Write an object from a file; it is there as a whole or not at all."""
        size = file.stat().st_size
        with _errors(name):
            self._files.put_file(str(file), self._path(name), timeout=self._transfer_s(size))

    def objects(self, folder: str) -> list[Stored]:
        """Give every object whose name begins with `FOLDER/`, by name."""
        path = self._path(folder)
        with _errors(folder):
            found: dict[str, dict[str, Any]] = self._files.find(path, detail=True, timeout=self._timeout_s)
        return [
            Stored(each[len(self._root()) :], about["size"], int(about["LastModified"].timestamp() * 1000))
            for each, about in sorted(found.items())
            if each.startswith(f"{path}/") and about["type"] == "file"
        ]

    def folders(self) -> list[str]:
        """Give the first parts of all names that have several."""
        try:
            with _errors(self._prefix):
                found = self._files.ls(self._path("").rstrip("/"), detail=True, refresh=True, timeout=self._timeout_s)
        except NotFoundError:  # so says the driver of a prefix without objects
            return []
        return sorted(each["name"].rpartition("/")[2] for each in found if each["type"] == "directory")

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; harmless where there are none."""
        for begin in range(0, len(names), _MOST_DELETED):
            keys = [{"Key": self._key(name)} for name in names[begin : begin + _MOST_DELETED]]
            with _errors(names[begin]):
                answer: dict[str, Any] = self._files.call_s3(
                    "delete_objects",
                    Bucket=self._bucket,
                    Delete={"Objects": keys, "Quiet": True},
                    timeout=self._timeout_s,
                )
            if failed := answer.get("Errors"):
                raise UnavailableError(f"{failed[0].get('Key')} was not deleted: {failed[0].get('Message')}")

    def end_uploads(self, *, before_ms: int) -> None:
        """Throw away what is on the server of uploads in parts that were begun before and never finished."""
        with _errors(self._url):
            for upload in self._files.list_multipart_uploads(self._bucket, timeout=self._timeout_s):
                begun_ms = int(upload["Initiated"].timestamp() * 1000)
                if upload["Key"].startswith(self._key("")) and begun_ms < before_ms:
                    self._files.abort_mpu(self._bucket, upload["Key"], upload["UploadId"], timeout=self._timeout_s)

    def close(self) -> None:
        """Close the connections."""
        client = self._files._s3  # noqa: SLF001 - the public property would connect
        if client is not None:
            S3FileSystem.close_session(self._files.loop, client)

    def _no_start(self, what: str, remedy: str) -> StartupError:
        return StartupError(" ".join(f"{self._url}: {self._place} {what}: {remedy}".split()))

    def _look(self) -> None:
        with _errors(self._bucket):
            self._files.call_s3(
                "list_objects_v2",
                Bucket=self._bucket,
                Prefix=self._key(""),
                MaxKeys=1,
                timeout=self._timeout_s,
            )

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _path(self, name: str) -> str:
        return f"{self._bucket}/{self._key(name)}"

    def _root(self) -> str:
        return self._path("")

    def _transfer_s(self, size: int) -> float:
        return self._timeout_s + size / _BYTES_PER_S


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Raise the driver's errors as ours."""
    try:
        yield
    except tuple(kind for kind, _ in ERRORS) as error:
        ours = next(ours for kind, ours in ERRORS if isinstance(error, kind))
        what = "no answer in time" if ours is DeadlineExceededError else str(error) or type(error).__name__
        raise ours(f"{name}: {what}") from error


async def open_bucket(url: str, *, setting: str, endpoint_url: str, wait_s: float) -> Bucket:
    """Open a bucket and see that it can be used.

    Raises:
        StartupError: It cannot, or was not reached within `wait_s` seconds.
    """
    bucket = Bucket(url, setting=setting, endpoint_url=endpoint_url)
    try:
        await bucket.wait_until_usable(wait_s)
    except BaseException:
        bucket.close()
        raise
    return bucket
