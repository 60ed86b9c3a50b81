"""Opens replicas of the store on CQL."""

import uuid
from random import Random

from profile_store.adapters.cql.connection import CqlAddress, CqlOptions
from profile_store.adapters.cql.store import CqlProfileStore, Retention
from servicekit.clock import Clock, SystemClock


async def open_cql(
    url: str,
    *,
    clock: Clock | None = None,
    retention: Retention | None = None,
    options: CqlOptions | None = None,
) -> CqlProfileStore:
    """Open a replica with the digits of its arrival numbers drawn anew."""
    return await CqlProfileStore.open(
        CqlAddress.parse(url),
        options or CqlOptions(wait_s=5.0),
        clock=clock or SystemClock(),
        random=Random(uuid.uuid4().int),
        retention=retention or Retention(),
    )
