"""Remembers what was answered to writes that their callers named, so that a repeated one is not done twice."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from servicekit.errors import InvalidArgumentError, UnavailableError

T = TypeVar("T")


class RepeatedWrites(Generic[T]):
    """The last so many named writes of this process.

    A repetition that reaches another process, or comes after a restart, is done again; what it writes to the log has
    the same event ids, so that its effects are the same.
    """

    def __init__(self, *, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._answers: OrderedDict[str, tuple[bytes, asyncio.Future[T]]] = OrderedDict()

    async def once(
        self, name: str, fingerprint: bytes, do: Callable[[], Awaitable[T]], *, is_final: Callable[[T], bool]
    ) -> T:
        """Do it, or give what it gave before; two at the same time are one.

        Args:
            name: What the caller calls the write, with everything that makes the name unique.
            fingerprint: What is written.
            do: Does it.
            is_final: Tells whether the answer may be given again; otherwise a repetition does it again.

        Raises:
            InvalidArgumentError: The name stands for another write.
        """
        known = self._answers.get(name)
        if known is not None:
            if known[0] != fingerprint:
                raise InvalidArgumentError(
                    "this Idempotency-Key was used for another request; take a new one", field="Idempotency-Key"
                )
            try:
                return await asyncio.shield(known[1])
            except asyncio.CancelledError:
                if not known[1].cancelled():
                    raise
                raise UnavailableError("the same write failed a moment ago; try again") from None
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._answers[name] = (fingerprint, answer)
        if len(self._answers) > self._capacity:
            self._answers.popitem(last=False)
        try:
            result = await do()
        except BaseException:
            # Whoever waits for the same write learns from the cancelled future that it failed.
            self._answers.pop(name, None)
            answer.cancel()
            raise
        if not is_final(result):
            self._answers.pop(name, None)
        answer.set_result(result)
        return result
