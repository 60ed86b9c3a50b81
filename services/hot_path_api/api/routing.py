"""How a route is declared: a plain function of a call, with its documentation beside it."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from hot_path_api.api.answers import Answer
from hot_path_api.api.parameters import NoParameters, Parameters
from hot_path_api.api.problems import problem_of
from hot_path_api.api.requests import Call
from hot_path_api.api.schemas import ProblemOut
from servicekit.errors import InternalError, ServiceError
from servicekit.logs import get_logger

Endpoint = Callable[[Call], Awaitable[Answer]]

_log = get_logger(__name__)

PROBLEMS: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "The body is no JSON.",
    HTTPStatus.UNAUTHORIZED: "No or a wrong API key.",
    HTTPStatus.NOT_FOUND: "There is no such thing.",
    HTTPStatus.CONFLICT: "It exists already.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too long.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A field is wrong; the answer names it.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests, for this key or this user; try again after Retry-After seconds.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Nothing can be said just now; try again.",
}


class EdgeRoute(APIRoute):
    """Runs its endpoint without a framework's parameter resolution, which costs more than most endpoints do."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = _as_asgi(endpoint)


def add_route(
    app: FastAPI,
    method: str,
    path: str,
    endpoint: Endpoint,
    *,
    summary: str,
    description: str = "",
    tag: str,
    answers: Mapping[int, type[BaseModel] | str],
    query: type[Parameters] = NoParameters,
    path_parameters: Mapping[str, str] | None = None,
    body: type[BaseModel] | None = None,
    problems: tuple[HTTPStatus, ...] = (),
    idempotent: bool = False,
) -> None:
    """Declare a route.

    Args:
        app: Where.
        method: The HTTP method.
        path: The path with its parameters in braces.
        endpoint: What runs.
        summary: One line.
        description: More, in Markdown.
        tag: The group in the documentation.
        answers: What is answered by status: a model, or a description where there is no JSON.
        query: The query parameters.
        path_parameters: What each parameter of the path means.
        body: The model of the body.
        problems: Which problems can happen besides those that can always happen.
        idempotent: Whether the Idempotency-Key header is looked at.
    """
    always = (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    with_body = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE) if body else ()
    responses: dict[int | str, dict[str, Any]] = {
        status.value: {"model": ProblemOut, "description": PROBLEMS[status]}
        for status in (*always, *with_body, *problems)
    }
    for status, answer in answers.items():
        responses[status] = (
            {"description": answer} if isinstance(answer, str) else {"model": answer, "description": _purpose(answer)}
        )
    parameters = [
        {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in (path_parameters or {}).items()
    ]
    parameters += _query_parameters(query)
    if idempotent:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Names this write; sent again with the same body it changes nothing more.",
                "schema": {"type": "string", "maxLength": 255},
            }
        )
    extra: dict[str, Any] = {"parameters": parameters}
    if body is not None:
        reference = {"$ref": f"#/components/schemas/{body.__name__}"}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    route = EdgeRoute(
        path,
        endpoint,
        methods=[method],
        summary=summary,
        description=description,
        tags=[tag],
        response_model=None,
        responses=responses,
        openapi_extra=extra,
        status_code=min(answers),
        operation_id=getattr(endpoint, "__name__", "").strip("_") or None,
    )
    app.router.routes.append(route)


def _as_asgi(endpoint: Endpoint) -> ASGIApp:
    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await endpoint(Call(scope, receive))
        except ServiceError as error:
            answer = problem_of(error, request_id=scope["request_id"])
        except Exception:  # noqa: BLE001 - the last line of defence: logged here, and told to the client as a problem
            _log.exception("a request failed unexpectedly", path=scope["path"])
            answer = problem_of(InternalError("something broke here; it is logged"), request_id=scope["request_id"])
        scope["status"] = answer.status
        await answer.send(send, request_id=scope["request_id"])

    return run


def _query_parameters(query: type[Parameters]) -> list[dict[str, Any]]:
    schema = query.model_json_schema(ref_template="#/components/schemas/{model}")
    required = set(schema.get("required", ()))
    parameters = []
    for name, described in schema.get("properties", {}).items():
        text = described.pop("description", "")
        described.pop("explode", None)
        parameters.append(
            {"name": name, "in": "query", "required": name in required, "description": text, "schema": described}
        )
    return parameters


def _purpose(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]
