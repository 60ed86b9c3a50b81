"""Asks servers that speak JSON over HTTP, and turns their failures into ours."""

from collections.abc import Mapping
from typing import Any

import httpx

from servicekit.errors import FailedPreconditionError, UnavailableError


async def ask(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    *,
    body: Any = None,
    parameters: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Send a request and give the JSON of the answer.

    Raises:
        UnavailableError: The other side cannot be reached, is late or has failed.
        FailedPreconditionError: It refuses; its words are in the message.
    """
    try:
        response = await client.request(method, path, json=body, params=parameters, headers=headers)
    except httpx.HTTPError as error:
        raise UnavailableError(f"{client.base_url} did not answer {method} {path}: {error!r}") from error
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise UnavailableError(f"{client.base_url} answered {method} {path} with {response.status_code}")
    if response.status_code >= httpx.codes.BAD_REQUEST:
        words = response.text[:500]
        raise FailedPreconditionError(f"{client.base_url} refused {method} {path}: {response.status_code} {words}")
    return response.json()
