"""What the gateway can be told."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from servicekit.settings import ServiceSettings


class Settings(ServiceSettings):
    """The gateway's settings; each is the environment variable of its name in capitals."""

    secrets_of: ClassVar[Mapping[str, str]] = {"redis_password": "redis_url"}

    http_port: int = Field(default=8080, ge=0, le=65535)
    """Port of the REST API; 0 takes a free one."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port for metrics alone, which in production takes them from the REST API; 0 leaves them to its `/metrics`."""
    vector_db_endpoint: str = "127.0.0.1:50051"
    """Where vector_search is, as host:port."""
    graph_db_endpoint: str = "127.0.0.1:50052"
    """Where graph_service is, as host:port."""
    agentdb_endpoint: str = "127.0.0.1:50053"
    """Where profile_store is, as host:port."""
    graph_enabled: bool = True
    """Whether there is a graph_service; a region without one makes its lists without the graph, and lacks nothing."""
    gpu_worker_endpoint: str = "127.0.0.1:50054"
    """Where gpu_worker is, as host:port."""

    auth_required: bool = True
    """Whether an API key is asked for; false is for the laptop."""
    api_key: SecretStr = SecretStr("")
    """The API key of the default tenant."""
    tenant: str = Field(default="default", min_length=1, max_length=64)
    """The default tenant."""

    time_budget_ms: float = Field(default=80.0, gt=0.0)
    """Milliseconds that a list may take; what is late is left out and named in `degraded`."""
    candidates: int = Field(default=200, ge=10, le=1_000)
    """How many candidates retrieval is asked for; more are asked for a long list."""
    graph_candidates: int = Field(default=100, ge=10, le=1_000)
    """How many items the graph is asked for; of a candidate that it does not name it says nothing."""
    history_limit: int = Field(default=1_000, ge=1, le=10_000)
    """How many items of a user's history are the query; older ones only count as seen."""
    batches_in_flight: int = Field(default=2, ge=1, le=64)
    """How many micro-batches to one service may be under way at a time."""
    item_cache_size: int = Field(default=50_000, ge=100)
    """How many items are kept in memory."""
    model_refresh_s: float = Field(default=5.0, gt=0.0)
    """Seconds between looks at which model serves; a switch is usually heard of at once."""
    redis_url: str = ""
    """Where Redis is, for limits and lists that all gateways share: `redis://HOST:PORT`,
    `redis+sentinel://HOST:PORT,…/SERVICE` or `redis+cluster://HOST:PORT,…`, with `rediss` for TLS; empty: each gateway
    is on its own."""
    redis_password: SecretStr = SecretStr("")
    """The password of Redis."""
    redis_sentinel_password: SecretStr = SecretStr("")
    """The password of the sentinels, if they ask for one."""
    redis_ca_file: Path | None = None
    """The authority that vouches for Redis under TLS; without it those that the system trusts."""
    redis_prefix: str = Field(default="", max_length=64)
    """Stands before all keys, so that deployments can share one Redis."""
    redis_timeout_ms: float = Field(default=5.0, gt=0.0, le=1_000.0)
    """Milliseconds that a request waits for Redis before it goes on without."""
    shared_list_s: float = Field(default=1.0, ge=0.05, le=60.0)
    """Seconds that a popular, trending or similar list is kept in Redis. New interactions show that much later; a new
    model and a deleted item show at once."""
    rate_limit_rps: float = Field(default=0.0, ge=0.0)
    """Requests a second of one API key, over all gateways that share a Redis; 0: no limit."""
    rate_limit_burst: int = Field(default=0, ge=0)
    """Requests of one API key at once; 0: those of a second."""
    rate_limit_user_rps: float = Field(default=0.0, ge=0.0)
    """Requests a second for one user; 0: no limit."""
    rate_limit_user_burst: int = Field(default=0, ge=0)
    """Requests for one user at once; 0: those of a second."""
    writes_fenced: bool = False
    """Whether writes are refused, because another region takes them."""
    primary_url: str = ""
    """Where writes are taken instead; told to those who are refused."""
    drain_s: float = Field(default=0.0, ge=0.0)
    """Seconds between saying "not ready" and closing the door, so that load balancers look in between."""

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.auth_required and not self.api_key.get_secret_value():
            raise ValueError("API_KEY is empty; give a key, or AUTH_REQUIRED=false to ask for none")
        return self
