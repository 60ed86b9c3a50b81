"""An HTTP answer, made of bytes that are ready to go."""

from starlette.types import Send

JSON = "application/json"
NO_STORE = (b"cache-control", b"no-store")


class Answer:
    """Status, headers and body; lighter than a framework's response, because every request pays for it.

    Without headers nobody may keep it.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        media_type: str = JSON,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = [NO_STORE] if headers is None else headers
        if body:
            self.headers.append((b"content-type", media_type.encode()))

    async def send(self, send: Send, *, request_id: str) -> None:
        """Write it out."""
        headers = [
            (b"content-length", str(len(self.body)).encode()),
            (b"x-request-id", request_id.encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
