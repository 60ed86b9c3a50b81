"""The gate: counts a request against the limits before anything is done for it."""

from urllib.parse import unquote

from starlette.types import Message, Scope, Send

from hot_path_api.api.problems import limit_headers, problem_of
from hot_path_api.application.rate_limits import RateLimits
from hot_path_api.domain.limits import RateLimitedError

_USER_PARAMETER = b"user_id="
_USER_PATH = "/user/"


class Gate:
    """Refuses what is too much, and tells everybody how much is left.

    The user is the one in the path or the query; of a body, which is read later, the endpoint asks for itself.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits

    async def admit(self, scope: Scope, send: Send) -> Send | None:
        """Give what the request is answered through; None when it was refused, and has its answer."""
        try:
            verdict = await self._limits.admit(scope["tenant"], _user_of(scope))
        except RateLimitedError as error:
            answer = problem_of(error, request_id=scope["request_id"])
            scope["status"] = answer.status
            await answer.send(send, request_id=scope["request_id"])
            return None
        return send if verdict is None else _telling(send, limit_headers(verdict))


def _telling(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return tell


def _user_of(scope: Scope) -> str:
    """Give the user that a request is about, empty when it names none; what is malformed is refused later."""
    _, found, user_id = scope["path"].partition(_USER_PATH)
    if found:
        return str(user_id)
    query: bytes = scope["query_string"]
    if _USER_PARAMETER not in query:
        return ""
    for part in query.split(b"&"):
        if part.startswith(_USER_PARAMETER):
            return unquote(part[len(_USER_PARAMETER) :].replace(b"+", b" ").decode("latin-1"))
    return ""
