"""The server as an ASGI application: routes, what all of them share, and how it starts and stops."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool

from factorlm import __version__
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.serving import (
    complaints,
    factor_routes,
    feedback_routes,
    openai_routes,
    page_routes,
    training_routes,
)
from factorlm.serving.bodies import Gate
from factorlm.serving.complaints import RESPONSES
from factorlm.serving.database import Database
from factorlm.serving.jobs import Engine
from factorlm.serving.keys import Caller, require
from factorlm.serving.metrics import CONTENT_TYPE, Counted, Metrics
from factorlm.serving.rates import Rates
from factorlm.serving.settings import Limits, ServerSettings
from factorlm.serving.shapes import Health
from factorlm.serving.stores import Stores
from factorlm.serving.workshop import Workshop

DESCRIPTION = "OpenAI's completions, with factors, guides, priors and memories composed onto the model."
KEYED = ("/v1/", "/metrics")

router = APIRouter(tags=["server"])


def create_app(
    settings: ServerSettings, engine: Engine, database: Database, make_lm: Callable[[], CausalLM] | None = None
) -> FastAPI:
    """The server.

    Args:
        settings: of it.
        engine: that writes; started and closed with the application.
        database: of keys and feedback; whoever opened it closes it when the application has ended.
        make_lm: gives the served model to those who work on factors, a reader of their own at each call; without it an
            engine of this process is asked for its own.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(app.state.stores.recover)
        await engine.start()
        try:
            yield
        finally:
            app.state.workshop.close()
            await engine.close(settings.limits.drain_s)

    app = FastAPI(
        title="factorlm", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    limits = settings.limits
    app.state.settings, app.state.engine, app.state.database = settings, engine, database
    app.state.stores = Stores(settings)
    places = {str(settings.state): "the server's state"}
    app.state.hidden = {str(folder): name for name, folder in (settings.memories | settings.priors).items()} | places
    app.state.workshop = Workshop(make_lm or functools.partial(_reader, engine))
    app.state.rates = Rates(limits.requests_per_minute, limits.tokens_per_minute)
    app.state.metrics = Metrics(engine.load)
    complaints.install(app)
    app.include_router(router)
    app.include_router(openai_routes.router, responses=RESPONSES)
    for routes in (training_routes, factor_routes, feedback_routes, page_routes):
        app.include_router(routes.router)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Counted, metrics=app.state.metrics)
    app.openapi = lambda: _document(app, engine, limits)  # type: ignore[method-assign]
    return app


def _reader(engine: Engine) -> CausalLM:
    """Another reader of the model that an engine of this process writes with."""
    lm = getattr(engine, "lm", None)
    if not isinstance(lm, CausalLM):
        raise InputError("this engine keeps its model elsewhere, so factors cannot be worked on here; give exponents")
    return lm.twin()


@router.get("/healthz")
async def healthz(request: Request) -> Health:
    """Whether the server is up, and how much it has to do."""
    engine: Engine = request.app.state.engine
    return Health(model=engine.model_id, load=dict(engine.load()))


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus's text format."},
        **{status: RESPONSES[status] for status in (401, 403)},
    },
)
def metrics(request: Request, caller: Annotated[Caller, Depends(require("read"))]) -> Response:
    """Numbers for Prometheus."""
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE)


def _document(app: FastAPI, engine: Engine, limits: Limits) -> dict[str, Any]:
    """The OpenAPI document: as FastAPI makes it, with this server's limits, keys, and errors as they are sent."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path, operations in found["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)  # what cannot be used is answered with 400
                if path.startswith(KEYED):
                    operation["security"] = [{"key": []}]
        parts = found["components"]
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        parts["securitySchemes"] = {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed as soon as a key was made; factorlm serve keys create makes one.",
            }
        }
        _tell_limits(parts["schemas"], engine.model_id, limits)
        app.openapi_schema = found
    return app.openapi_schema


def _tell_limits(schemas: dict[str, Any], model_id: str, limits: Limits) -> None:
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            if "patternProperties" in field:
                field["additionalProperties"] = False  # other names are refused
    for body in ("CompletionBody", "ChatBody", "ScoreBody"):
        fields = schemas[body]["properties"]
        fields["model"] = {"enum": [model_id, None], "title": "Model"}
        for name in ("factors", "guides", "memory"):
            fields[name]["maxProperties"] = limits.factors
        most = {"n": limits.n, "max_tokens": limits.max_tokens, "max_completion_tokens": limits.max_tokens}
        for name in fields.keys() & most.keys():
            fields[name]["anyOf"][0]["maximum"] = most[name]
    schemas["ScoreBody"]["properties"]["texts"]["maxItems"] = limits.score_texts
