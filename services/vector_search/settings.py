"""What the environment may tell vector_search."""

from pathlib import Path
from typing import Any

from pydantic import Field

from servicekit.settings import ServiceSettings


def _embedded_models(validated: dict[str, Any]) -> str:
    return Path(validated["data_dir"]).absolute().joinpath("models").as_uri()


class VectorSearchSettings(ServiceSettings):
    """Settings of vector_search."""

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    model_store_url: str = Field(default_factory=_embedded_models)
    """Where the model versions are: `file:///FOLDER` or `s3://BUCKET/PREFIX`, whose keys are in the environment as
    the AWS tools read them (AWS_ACCESS_KEY_ID, …); without it the folder `models` in the data folder."""
    s3_endpoint_url: str = ""
    """Where S3 answers, as http://HOST:PORT; empty for AWS."""
    kernel_threads: int = Field(default=1, ge=1, le=64)
    """Threads that compute candidates; more than one helps where there are idle processors."""
    least_recall: float = Field(default=0.95, ge=0.0, le=1.0)
    """A version whose dense search finds a smaller part of the nearest ten is not activated."""
    build_timeout_s: float = Field(default=1_800.0, gt=0.0)
    """Seconds that building one collection of dense vectors may take."""
