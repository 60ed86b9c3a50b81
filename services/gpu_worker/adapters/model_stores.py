"""Opens the model store that an address names."""

from pathlib import Path

from gpu_worker.adapters.folder_model_store import FolderModelStore
from gpu_worker.domain.ports import ModelStore
from servicekit.folders import folder_of_url

_SETTING = "MODEL_STORE_URL"


async def open_model_store(url: str, *, s3_endpoint_url: str, staging: Path, wait_s: float) -> ModelStore:
    """Open the store at `file:///FOLDER` or `s3://BUCKET/PREFIX`, and see that it can be used.

    Args:
        url: Where it is.
        s3_endpoint_url: Where S3 answers; empty for AWS.
        staging: A folder for files on their way to a bucket.
        wait_s: How long a bucket that cannot be reached is waited for.

    Raises:
        StartupError: It cannot be used; says why.
    """
    if not url.startswith("s3:"):
        return FolderModelStore(folder_of_url(url, setting=_SETTING))
    # Here and not above: the driver takes a second to import, and a stack on folders shall not wait for that.
    from gpu_worker.adapters.bucket_model_store import BucketModelStore  # noqa: PLC0415
    from servicekit.bucket import open_bucket  # noqa: PLC0415

    bucket = await open_bucket(url, setting=_SETTING, endpoint_url=s3_endpoint_url, wait_s=wait_s)
    return BucketModelStore(bucket, staging=staging)
