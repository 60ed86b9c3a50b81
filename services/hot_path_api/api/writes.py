"""What all writes share: the Idempotency-Key, ids of events, statuses."""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from secrets import token_hex

from hot_path_api.api.answers import Answer
from hot_path_api.api.requests import Call
from hot_path_api.application.idempotency import RepeatedWrites
from hot_path_api.application.writing import Outcome
from hot_path_api.domain.events import write_id

# The report on a bulk full of errors is made again rather than kept.
_MAX_REMEMBERED_BYTES = 16 << 10

STATUS_BY_OUTCOME = {
    Outcome.CREATED: 201,
    Outcome.REPLACED: 200,
    Outcome.UNCHANGED: 200,
    Outcome.ACCEPTED: 202,
}


class EventIds:
    """The ids of a write's events: made from the Idempotency-Key where there is one, so that a repetition has them."""

    __slots__ = ("_write_id",)

    def __init__(self, call: Call, key: str) -> None:
        name = f"{call.method} {call.scope['path']} {key}"
        self._write_id = write_id(call.tenant, name) if key else token_hex(16)

    def of(self, index: int) -> str:
        """Give the id of the index-th event."""
        return f"{self._write_id}-{index}"


async def once(
    repeated: RepeatedWrites[Answer], call: Call, key: str, body: bytes, do: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Do a write, or answer as before when the caller repeats one under the same name."""
    if not key:
        return await do()
    name = f"{call.tenant} {call.method} {call.scope['path']} {key}"
    fingerprint = blake2b(call.scope["query_string"] + b"\0" + body, digest_size=16).digest()
    answer = await repeated.once(name, fingerprint, do, is_final=_is_final)
    # An answer's headers are its own: what is sent now must not be changed by what was sent before.
    return Answer(answer.body, status=answer.status)


def _is_final(answer: Answer) -> bool:
    return answer.status in {200, 201, 204} and len(answer.body) <= _MAX_REMEMBERED_BYTES
