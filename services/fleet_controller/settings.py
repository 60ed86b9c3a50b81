"""What the environment may tell the fleet controller."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from servicekit.settings import ServiceSettings


class FleetSettings(ServiceSettings):
    """Settings of one run."""

    secrets_of: ClassVar[Mapping[str, str]] = {"neo4j_password": "graph_store_url", "qdrant_api_key": "qdrant_rest_url"}

    dry_run: bool = True
    """Whether it only tells what it would do."""
    prometheus_url: str = "http://127.0.0.1:9090"
    """Where Prometheus answers."""
    timeout_s: float = Field(default=30.0, gt=0.0)
    """The longest that one question or action may take."""

    kubernetes_url: str = "https://kubernetes.default.svc"
    """The API server."""
    kubernetes_account_dir: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Folder with the token, the namespace and the authority of the pod's account."""
    replica_set: str = "neo4j-replica"
    """The StatefulSet of the read replicas."""
    graph_store_url: str = ""
    """Neo4j, as `neo4j://HOST:PORT`."""
    neo4j_username: str = "neo4j"
    """Who may manage its servers."""
    neo4j_password: SecretStr = SecretStr("")
    """The password of that user."""
    neo4j_database: str = "neo4j"
    """The database whose secondaries are counted."""
    latency_query: str = "query_latency_p99"
    """What Prometheus is asked: the 99th percentile of the latency of reads, in milliseconds."""
    target_ms: float = Field(default=5.0, gt=0.0)
    """The latency that the number of replicas aims at."""
    up_above_ms: float = Field(default=10.0, gt=0.0)
    """Above this there are too few."""
    down_below_ms: float = Field(default=2.0, ge=0.0)
    """Below this there are too many."""
    cooldown_s: float = Field(default=300.0, ge=0.0)
    """Seconds after a change before the next."""
    least_replicas: int = Field(default=2, ge=0)
    """There are never fewer."""
    most_replicas: int = Field(default=10, ge=1)
    """There are never more."""
    most_steps_up: int = Field(default=2, ge=1)
    """So many are added at once at most."""

    qdrant_rest_url: str = ""
    """Any peer's REST address."""
    qdrant_api_key: SecretStr = SecretStr("")
    """What it asks for."""
    imbalance: float = Field(default=0.2, gt=0.0)
    """Shards are moved when the fullest peer has so much more than the mean."""
    most_moves: int = Field(default=2, ge=1)
    """So many are begun in one run at most."""
