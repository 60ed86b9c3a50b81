"""What the environment may tell profile_store."""

from typing import Literal

from pydantic import Field

from servicekit.settings import ServiceSettings


class ProfileStoreSettings(ServiceSettings):
    """Settings of profile_store."""

    grpc_port: int = Field(default=50053, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
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
    """After so many bad records one after the other the service stops, since something else must be wrong."""
