"""What the environment may tell vector_search."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr

from servicekit.settings import ServiceSettings


def _embedded_models(validated: dict[str, Any]) -> str:
    return Path(validated["data_dir"]).absolute().joinpath("models").as_uri()


class VectorSearchSettings(ServiceSettings):
    """Settings of vector_search."""

    secrets_of: ClassVar[Mapping[str, str]] = {"qdrant_api_key": "vector_store_url"}

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    model_store_url: str = Field(default_factory=_embedded_models)
    """Where the model versions are: `file:///FOLDER` or `s3://BUCKET/PREFIX`, whose keys are in the environment as
    the AWS tools read them (AWS_ACCESS_KEY_ID, …); without it the folder `models` in the data folder."""
    s3_endpoint_url: str = ""
    """Where S3 answers, as http://HOST:PORT; empty for AWS."""
    vector_store_url: str = ""
    """Where the dense vectors are: `qdrant://HOST:PORT` of Qdrant's gRPC, `qdrants://HOST:PORT` with TLS; without it
    this replica keeps them in the data folder."""
    qdrant_api_key: SecretStr = SecretStr("")
    """What Qdrant asks for; empty for nothing."""
    qdrant_rest_port: int = Field(default=6333, ge=1, le=65535)
    """Qdrant's HTTP port, needed only to restore a snapshot."""
    qdrant_prefix: str = Field(default="recommendation", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """Begins the names of all collections and aliases, so that several deployments can use one Qdrant."""
    qdrant_timeout_s: float = Field(default=5.0, gt=0.0)
    """The longest that one call of Qdrant may take; on the path of a request what is left of its time counts."""
    qdrant_shard_number: int | None = Field(default=None, ge=1)
    """Parts of a collection; without it Qdrant makes one for each node. Counts for collections that are made anew."""
    qdrant_replication_factor: int = Field(default=1, ge=1)
    """Copies of each part of a collection."""
    qdrant_write_consistency_factor: int = Field(default=1, ge=1)
    """Copies that must have a write before it is acknowledged."""
    qdrant_write_ordering: Literal["weak", "medium", "strong"] = "weak"
    """How writes of one point through several nodes are put in order."""
    kernel_threads: int = Field(default=2, ge=1, le=64)
    """Threads that compute candidates; more than one helps where there are idle processors."""
    least_recall: float = Field(default=0.95, ge=0.0, le=1.0)
    """A version whose dense search finds a smaller part of the nearest ten is not activated."""
    trained_elsewhere: bool = False
    """Whether another region trains: then nobody has seen yet that a version's vectors are in this region's Qdrant."""
    build_timeout_s: float = Field(default=1_800.0, gt=0.0)
    """Seconds that building one collection of dense vectors may take."""
