"""The FastAPI application: routes, and the shape of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.responses import Response

from vistune import __version__
from vistune.serve.api.answering import Answerer
from vistune.serve.api.desk import Desk
from vistune.serve.api.errors import engine_error, http_error, invalid, json_response
from vistune.serve.api.failures import log_failure
from vistune.serve.api.front import Front
from vistune.serve.api.metrics import Metrics
from vistune.serve.api.votes import FullError, Vote, Votes
from vistune.serve.api.wire import ChatBody
from vistune.serve.engine.engine import BadRequestError, BusyError, Engine, EngineError
from vistune.serve.guards.limits import Limits

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_AT_ONCE = 32


def create_app(
    engines: Mapping[str, Engine],
    limits: Limits | None = None,
    key: str | None = None,
    *,
    votes: Votes | None = None,
    at_once: int = _AT_ONCE,
    log_content: bool = False,
) -> FastAPI:
    """The API for these engines. ``app.state.desk`` ends it in an orderly way.

    Args:
        engines: by name.
        key: asked for as ``Authorization: Bearer KEY``; None: whoever reaches the port is answered.
        votes: where votes are kept; None: ``/v1/votes`` is 404.
        at_once: requests that a model answers together; ``limits.queue`` more may wait.
        log_content: whether questions and answers are logged.
    """
    limits = limits or Limits()
    telemetry: Any = {"tracing": False, "metrics": False, "logs": False}  # it would tell of errors' words
    app = FastAPI(title="vistune", version=__version__, docs_url=None, redoc_url=None, telemetry=telemetry)
    metrics = Metrics(engines)
    desk = Desk(engines, at_once + limits.queue)
    app.state.desk = desk
    _add_chat(app, Answerer(desk, limits, metrics, log_content))
    _add_models(app, desk)
    _add_health(app, desk, metrics)
    if votes is not None:
        _add_votes(app, votes, desk)
    _add_refusals(app)
    _shape_errors(app)
    app.add_middleware(Front, body_bytes=limits.body_bytes, key=key, metrics=metrics)
    return app


def _add_chat(app: FastAPI, answerer: Answerer) -> None:
    @app.post("/v1/chat/completions", response_class=Response)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answer the last question of a conversation."""
        return await answerer.respond(body, request.receive)


def _add_models(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models", response_class=Response)
    async def models() -> Response:
        """The models that are ready."""
        return json_response({"object": "list", "data": [_model(engine) for engine in desk.models]})

    @app.get("/v1/models/{name:path}", response_class=Response)
    async def model(name: str) -> Response:
        """One model, and what is to be known of it."""
        return json_response(_model(desk.engine(name)))


def _model(engine: Engine) -> dict[str, Any]:
    card = dict(engine.card)
    return {
        "id": engine.name,
        "object": "model",
        "created": 0,
        "owned_by": "vistune",
        "max_model_len": engine.context,
        "card": card,
    }


def _add_health(app: FastAPI, desk: Desk, metrics: Metrics) -> None:
    @app.get("/health", response_class=Response)
    async def health() -> Response:
        """200 as long as questions are taken; 503 while the server shuts down."""
        models = [engine.name for engine in desk.models]
        status = 503 if desk.closed else 200
        return json_response({"status": "closing" if desk.closed else "ok", "models": models}, status)

    @app.get("/metrics", response_class=Response)
    async def figures() -> Response:
        """For Prometheus."""
        return Response(metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_votes(app: FastAPI, votes: Votes, desk: Desk) -> None:
    @app.post("/v1/votes", response_class=Response, status_code=201)
    async def vote(body: Vote) -> Response:
        """Keep what somebody thinks of an answer."""
        for answer in body.answers:
            desk.engine(answer.model)
        try:
            await asyncio.to_thread(votes.append, body)
        except FullError as error:
            raise HTTPException(507, str(error)) from error
        return json_response({"stored": True}, 201)


def _add_refusals(app: FastAPI) -> None:
    """What is not ours is refused here, before a page that is mounted at ``/`` takes it for its own."""
    allowed: dict[str, set[str]] = {}
    for route in app.routes:
        allowed.setdefault(getattr(route, "path", ""), set()).update(getattr(route, "methods", None) or ())
    for path, methods in allowed.items():
        if path.startswith("/v1/") or path in ("/health", "/metrics"):
            _refuse_others(app, path, methods)

    @app.api_route("/v1/{rest:path}", methods=list(_METHODS), include_in_schema=False)
    async def not_found(rest: str) -> Response:
        return http_error(404)


def _refuse_others(app: FastAPI, path: str, methods: set[str]) -> None:
    others = [method for method in _METHODS if method not in methods]

    @app.api_route(path, methods=others, include_in_schema=False)
    async def not_allowed(request: Request) -> Response:
        return http_error(405, headers={"Allow": ", ".join(sorted(methods))})


def _shape_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors())

    @app.exception_handler(AnyHTTPException)
    async def http(request: Request, error: AnyHTTPException) -> Response:
        return http_error(error.status_code, error.detail, error.headers)

    async def refused(request: Request, error: BadRequestError | BusyError | EngineError) -> Response:
        log_failure(error)
        return engine_error(error)

    for kind in (BadRequestError, BusyError, EngineError):
        app.add_exception_handler(kind, refused)  # type: ignore[arg-type]
