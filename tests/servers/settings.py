"""What may be set of the test servers, by environment variables that start with `SERVERS_`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]


class ServersSettings(BaseSettings):
    """A field's environment variable is `SERVERS_` and its name in capitals; an empty variable counts as absent."""

    model_config = SettingsConfigDict(
        env_prefix="SERVERS_", frozen=True, env_ignore_empty=True, use_attribute_docstrings=True
    )

    data_dir: Path = ROOT / ".servers"
    """Folder with a folder for each server: its data, configuration, log, pid and, where there is one, password."""
    cache_dir: Path = ROOT / ".cache" / "servers"
    """Folder of the jars and of the Maven repository that they come through."""
    stores_file: Path = ROOT / ".cache" / "servers" / "stores.env"
    """The settings file of a stack on the servers; `recommend up --stores servers` looks there."""
    java: str = ""
    """Path of a Java 17; without it JAVA_HOME, the path and Debian's place are looked at."""

    kafka_port: int = Field(default=19092, ge=1, le=65535)
    """Port of Kafka's clients."""
    kafka_controller_port: int = Field(default=19093, ge=1, le=65535)
    """Port of Kafka's controller; it must stay the same while the data stays."""
    kafka_heap_mb: int = Field(default=384, ge=128)
    """Largest heap of Kafka, in MiB."""

    cassandra_port: int = Field(default=19042, ge=1, le=65535)
    """Port of CQL."""
    cassandra_storage_port: int = Field(default=17000, ge=1, le=65534)
    """Port between Cassandra's nodes, of which there is one."""
    cassandra_heap_mb: int = Field(default=512, ge=256)
    """Largest heap of Cassandra, in MiB."""

    neo4j_port: int = Field(default=17687, ge=1, le=65535)
    """Port of Bolt."""
    neo4j_heap_mb: int = Field(default=512, ge=256)
    """Largest heap of Neo4j, in MiB."""
    neo4j_page_cache_mb: int = Field(default=256, ge=16)
    """Neo4j's cache of its files, in MiB."""

    redis_port: int = Field(default=16379, ge=1, le=65535)
    """Port of Redis."""
    redis_memory_mb: int = Field(default=128, ge=1)
    """Most that Redis keeps, in MiB; more is refused, nothing is evicted."""

    qdrant_port: int = Field(default=16334, ge=1, le=65535)
    """Port of gRPC of the server that speaks Qdrant's wire."""
    qdrant_rest_port: int = Field(default=16333, ge=1, le=65535)
    """Port of its REST."""

    s3_port: int = Field(default=15555, ge=1, le=65535)
    """Port of the S3 server; it keeps everything in memory."""

    quick_start: bool = False
    """Start the Java servers for half the processor time; at length they are slower, so a bench wants it off."""
    start_wait_s: float = Field(default=180.0, gt=0.0)
    """Seconds that a server may take until it answers."""
    stop_grace_s: float = Field(default=30.0, ge=0.0)
    """Seconds that a server may take to stop before it is killed."""
