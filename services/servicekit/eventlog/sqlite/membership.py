"""One consumer's place in its group: joining, staying alive, taking and giving up partitions."""

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError, ServiceError
from servicekit.eventlog.port import Offsets, TopicPartition
from servicekit.eventlog.sqlite.group_file import Member, Share
from servicekit.eventlog.sqlite.reader import LogReader
from servicekit.logs import get_logger

_RENEWALS_PER_SESSION = 5

_log = get_logger(__name__)


class Membership:
    """Joined by `join`, then renewed in the background until `leave`, also during a long handler.

    A member that could not renew for `session_ms` has died for the others: they take its partitions, and its commits
    are refused. `on_share` is called with what each renewal finds.
    """

    def __init__(
        self,
        reader: LogReader,
        member: Member,
        *,
        clock: Clock,
        session_ms: int,
        on_share: Callable[[Share | FailedPreconditionError], None],
    ) -> None:
        self._reader = reader
        self._member = member
        self._clock = clock
        self._session_ms = session_ms
        self._on_share = on_share
        self._renewal: asyncio.Task[None] | None = None

    async def join(self) -> Share:
        """Join, or take the place of the last life of this member."""
        share = await self._reader.run(self._renew, joining=True)
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._keep_renewing(), name="event-log-membership")
        return share

    async def give_up(self, surplus: AbstractSet[TopicPartition]) -> Share:
        """Release partitions for others and give the share after that."""
        return await self._reader.run(self._release_and_renew, surplus)

    async def commit(self, offsets: Offsets) -> set[TopicPartition]:
        """Store offsets, and give the partitions that this member does not own."""
        return await self._reader.run(self.commit_blocking, offsets)

    def commit_blocking(self, offsets: Offsets) -> set[TopicPartition]:
        """Do the same in the reading thread."""
        return self._reader.groups().commit(self._member, offsets)

    async def leave(self) -> None:
        """Give everything up."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None
            await self._reader.run(lambda: self._reader.groups().leave(self._member))

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._session_ms / 1000 / _RENEWALS_PER_SESSION)
            try:
                self._on_share(await self._reader.run(self._renew, joining=False))
            except FailedPreconditionError as error:
                self._on_share(error)
                return
            except ServiceError as error:
                # The lease outlasts several failures; when it does not, commits are refused.
                _log.warning("membership not renewed, trying again", group=self._member.group, error=error.message)

    def _renew(self, *, joining: bool) -> Share:
        return self._reader.groups().renew(
            self._member,
            joining=joining,
            now_ms=self._clock.now_ms(),
            session_ms=self._session_ms,
            count=lambda topic: self._reader.topic(topic).partitions,
        )

    def _release_and_renew(self, surplus: AbstractSet[TopicPartition]) -> Share:
        self._reader.groups().release(self._member, surplus)
        return self._renew(joining=False)
