"""One consumer's place in its group: joining, staying alive, taking and giving up partitions."""

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError, UnavailableError
from servicekit.eventlog.port import Offsets, TopicPartition
from servicekit.eventlog.sqlite.group_file import Member, Share
from servicekit.eventlog.sqlite.reader import LogReader

_RENEWALS_PER_SESSION = 5


class Membership:
    """Joined by `join`, then renewed in the background until `leave`, also during a long handler.

    A member that could not renew for `session_ms` has died for the others: they take its partitions, and its commits
    are refused. `on_news` is called when `news` has something to tell.
    """

    def __init__(
        self, reader: LogReader, member: Member, *, clock: Clock, session_ms: int, on_news: Callable[[], None]
    ) -> None:
        self._reader = reader
        self._member = member
        self._clock = clock
        self._session_ms = session_ms
        self._on_news = on_news
        self._held: AbstractSet[TopicPartition] = frozenset()
        self._news: Share | None = None
        self._refused: FailedPreconditionError | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def join(self) -> Share:
        """Join, or take the place of the last life of this member."""
        share = await self._reader.run(self._renew, joining=True)
        self._held = share.held
        self._renewal = asyncio.create_task(self._keep_renewing(), name="event-log-membership")
        return share

    def news(self) -> Share | None:
        """Give the share if it has changed since it was last given.

        Raises:
            FailedPreconditionError: Another consumer has joined under this member's name.
        """
        if self._refused is not None:
            raise self._refused
        share, self._news = self._news, None
        if share is not None:
            self._held = share.held
        return share

    async def give_up(self, surplus: AbstractSet[TopicPartition]) -> Share:
        """Release partitions for others and give the share after that."""
        share = await self._reader.run(self._release_and_renew, surplus)
        self._held = share.held
        self._news = None  # anything told so far is older than this
        return share

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
                share = await self._reader.run(self._renew, joining=False)
            except UnavailableError:
                continue  # the lease outlasts several failures; when it does not, commits are refused
            except FailedPreconditionError as error:
                self._refused = error
                self._on_news()
                return
            if share.surplus or share.held != self._held:
                self._news = share
                self._on_news()

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
