"""Opens the model store that an address names."""

from pathlib import Path

from servicekit.folders import folder_of_url
from vector_search.adapters.item_columns import ItemColumnCache
from vector_search.adapters.model_folder import FolderModelStore
from vector_search.domain.ports import ModelStore

_SETTING = "MODEL_STORE_URL"


async def open_model_store(url: str, *, s3_endpoint_url: str, folder: Path, wait_s: float) -> ModelStore:
    """Open the store at `file:///FOLDER` or `s3://BUCKET/PREFIX`, and see that it can be used.

    Args:
        url: Where it is.
        s3_endpoint_url: Where S3 answers; empty for AWS.
        folder: Where this machine keeps what it makes of versions.
        wait_s: How long a bucket that cannot be reached is waited for.

    Raises:
        StartupError: It cannot be used; says why.
    """
    columns = ItemColumnCache(folder / "columns")
    if not url.startswith("s3:"):
        return FolderModelStore(folder_of_url(url, setting=_SETTING), columns)
    # Here and not above: the driver takes a second to import, and a stack on folders shall not wait for that.
    from servicekit.bucket import open_bucket  # noqa: PLC0415
    from vector_search.adapters.model_bucket import BucketModelStore  # noqa: PLC0415

    bucket = await open_bucket(url, setting=_SETTING, endpoint_url=s3_endpoint_url, wait_s=wait_s)
    return BucketModelStore(bucket, folder / "versions", columns)
