"""Puts the routes together: the application, its documentation, the edge around it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.resources import as_file, files
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from hot_path_api.api import schemas
from hot_path_api.api.edge import Edge
from hot_path_api.api.gate import Gate
from hot_path_api.api.problems import MEDIA_TYPE, WriteFencedError, problem
from hot_path_api.api.routing import EdgeRoute

TITLE = "Recommendations"
_DOCS = "/api/docs"
_OPENAPI = "/openapi.json"
_BODIES = (
    schemas.RecommendationBody,
    schemas.BatchBody,
    schemas.NewItem,
    schemas.ItemContent,
    schemas.ItemsBody,
    schemas.NewInteraction,
    schemas.InteractionsBody,
    schemas.InteractionTypesBody,
)
_DESCRIPTION = """\
A recommender that answers from everything it knows up to your last request.

**Start**: put items (`POST /api/v1/items/bulk`), record what users do (`POST /api/v1/interactions`), ask
(`GET /api/recommendations?user_id=…`). An unknown user gets what is popular; after one
interaction the list is personal.

**Key**: send it as `X-API-Key`, or as `Authorization: Bearer`.

**Errors** are problem documents (RFC 9457): `code` is for programs, `detail` for people, `field` names what is wrong,
`request_id` finds the logs. The id comes from `X-Request-Id` or is made, and is in every answer.

**Limits**, where there are any: 429 says by `Retry-After` when to come again, and each answer tells by `RateLimit` how
much is left.

**Writes** take an `Idempotency-Key`: the same write sent again under the same key changes nothing more. 201 or 200: it
is stored, and your next read sees it. 202: it is safely logged, and will be stored in a moment.

**Lists** have a `next_cursor`; give it back as `cursor` with everything else unchanged."""


class Routes(Protocol):
    """A group of endpoints."""

    def add_to(self, app: FastAPI) -> None:
        """Declare the routes."""
        ...


def create_app(
    groups: Sequence[Routes],
    *,
    keys: Mapping[str, str] | None,
    open_tenant: str,
    gate: Gate | None = None,
    fence: WriteFencedError | None = None,
) -> Edge:
    """Make the ASGI application.

    Args:
        groups: The endpoints.
        keys: The tenant of each API key; None asks for no key.
        open_tenant: The tenant where no key is asked for.
        gate: Counts requests against limits; None where there are none.
        fence: Why writes are refused; None takes them.
    """
    app = FastAPI(
        title=TITLE,
        version="1",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=_OPENAPI,
        redirect_slashes=False,
        exception_handlers={StarletteHTTPException: _http_problem},
    )
    for group in groups:
        group.add_to(app)
    _add_documentation(app)
    literal = {
        (method, route.path): route
        for route in app.router.routes
        if isinstance(route, EdgeRoute) and "{" not in route.path
        for method in route.methods or ()
    }
    return Edge(app, literal=literal, keys=keys, open_tenant=open_tenant, gate=gate, fence=fence)


def _add_documentation(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            components = document.setdefault("components", {})
            _, bodies = models_json_schema(
                [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
            )
            components.setdefault("schemas", {}).update(bodies["$defs"])
            components["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
            document["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    async def docs(_request: Request) -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=_OPENAPI,
            title=TITLE,
            swagger_js_url=f"{_DOCS}/static/swagger-ui-bundle.js",
            swagger_css_url=f"{_DOCS}/static/swagger-ui.css",
            swagger_favicon_url=f"{_DOCS}/static/favicon.png",
        )

    async def to_docs(_request: Request) -> RedirectResponse:
        return RedirectResponse(_DOCS)

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    app.add_route(_DOCS, docs, include_in_schema=False)
    for path in ("/", "/docs"):  # where people look first
        app.add_route(path, to_docs, include_in_schema=False)
    # The page's scripts come from a package, so that it works without a network.
    with as_file(files("fastapi_offline") / "static") as folder:
        app.mount(f"{_DOCS}/static", StaticFiles(directory=folder))


async def _http_problem(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: no such path, no such method."""
    status = HTTPStatus(error.status_code if isinstance(error, HTTPException | StarletteHTTPException) else 500)
    detail = {
        HTTPStatus.NOT_FOUND: "there is no such path; /api/docs lists them",
        HTTPStatus.METHOD_NOT_ALLOWED: "the path does not take this method; /api/docs says which it takes",
    }.get(status, status.phrase)
    code = {HTTPStatus.NOT_FOUND: "not_found", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}.get(
        status, "bad_request"
    )
    request_id: str = request.scope["request_id"]
    request.scope["status"] = status.value
    answer = problem(status, code=code, detail=detail, request_id=request_id)
    headers = {"x-request-id": request_id, "cache-control": "no-store"}
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods_of(request))
    return Response(answer.body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Give the methods that the path takes; the router tells only those of the first route that matches it."""
    methods: set[str] = set()
    for route in request.app.router.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= route.methods or set()
    return sorted(methods)
