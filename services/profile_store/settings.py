"""What the environment may tell profile_store."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from servicekit.settings import ServiceSettings


class ProfileStoreSettings(ServiceSettings):
    """Settings of profile_store."""

    secrets_of: ClassVar[Mapping[str, str]] = {"scylladb_password": "profile_store_url"}

    grpc_port: int = Field(default=50053, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    agentdb_port: int = Field(default=8888, ge=0, le=65535)
    """Port of the gRPC server of PolicyStoreService, what agents keep; 0 takes a free one."""
    profile_store_url: str = ""
    """Where the store is: `cql://host:port[,host:port]/keyspace`; without it a file in the data folder."""
    scylladb_username: str = ""
    """Who logs in to the CQL cluster; empty where it asks for nobody."""
    scylladb_password: SecretStr = SecretStr("")
    """The password of that user."""
    cql_datacenter: str = ""
    """The datacenter whose nodes are asked, as the cluster calls it; empty: that of the hosts in the URL."""
    cql_replication_factor: int = Field(default=3, ge=1, le=9)
    """On how many nodes of each datacenter everything lies; used when the migration makes the keyspace."""
    cql_scylla: bool = False
    """Whether the cluster knows Scylla's own clauses: BYPASS CACHE, USING TIMEOUT, tablets."""
    cql_timeout_s: float = Field(default=5.0, gt=0.0)
    """The longest that a query may take; a caller's deadline may end it earlier."""
    cql_speculative_delay_ms: int = Field(default=100, ge=0)
    """After so long without an answer a read also goes to the next replica; 0: never."""
    cql_max_in_flight: int = Field(default=256, ge=1, le=10_000)
    """How many queries may be on their way to the cluster at once."""
    cql_interactions_ttl_days: int = Field(default=0, ge=0, le=7_000)
    """How many days after its time an interaction is kept; 0: for ever. Popularity goes on counting it."""
    cql_event_ids_ttl_days: int = Field(default=0, ge=0, le=7_000)
    """How many days it is known that an event was taken in; 0: for ever. A replay counts nothing twice even later."""
    cql_episodes_ttl_days: int = Field(default=0, ge=0, le=7_000)
    """How many days after its time an episode or a reward of an agent is kept; 0: for ever."""
    heartbeats_topic: str = ""
    """In a region that mirrors another one: the topic, as the log itself calls it, of the heartbeats that come with the
    events; `replication_lag_seconds` tells how old the newest is. Empty where nothing is mirrored."""
    consumer_member: str = ""
    """This replica's name in the consumer group, the same after a restart; empty: the host's name. On SQLite there is
    one replica, and its name is always the same."""
    sqlite_synchronous: Literal["full", "normal"] = "full"
    """Whether an acknowledged write survives a power cut (full) or only a killed process (normal)."""
    context_cache_mb: int = Field(default=64, ge=0)
    """Megabytes for the histories of the users read last."""
    item_cache_size: int = Field(default=20_000, ge=0)
    """How many of the items read last are kept in memory."""
    consumer_max_batch: int = Field(default=5_000, ge=1, le=10_000)
    """The most records of the event log applied at once."""
    consumer_hold_s: float = Field(default=0.1, ge=0.0, le=10.0)
    """How long an event waits in the log before the consumer applies it: the gateway writes through meanwhile, and
    can tell its caller whether what was written is new. Other producers' events wait as long."""
    consumer_max_failures_in_a_row: int = Field(default=100, ge=1)
    """After so many bad records one after the other the consumer stops, since something else must be wrong."""
