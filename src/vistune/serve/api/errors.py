"""What went wrong, in the shape that OpenAI's clients read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from vistune.serve.engine.engine import BadRequestError, BusyError, EngineError

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 413: "request_too_large", 429: "server_busy"}
_ADVICE = {
    404: "There is nothing here. The API is at /v1/chat/completions and /v1/models.",
    500: "The server failed. Its log says where.",
}


class UnsupportedError(BadRequestError):
    """A parameter of OpenAI's API that would change nothing here, so it is refused."""


class UnknownModelError(BadRequestError):
    """No model of that name is served: 404."""


class ClosedError(EngineError):
    """The server shuts down. Its message is for users."""


class ClientGoneError(Exception):
    """The client has hung up; nobody hears an answer."""


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """``{"error": {...}}`` as OpenAI writes it."""
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or _CODES.get(status)}}


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: a message may quote half of a surrogate pair, which UTF-8 cannot write."""
    return Response(json.dumps(content), status, headers, "application/json")


def http_error(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error of HTTP itself; ``detail`` where there is more to say than the status does."""
    phrase = HTTPStatus(status).phrase
    message = detail if detail and detail != phrase else _ADVICE.get(status, f"{phrase}.")
    return json_response(error_body(status, message), status, headers)


def engine_error(error: BadRequestError | BusyError | EngineError) -> Response:
    """What an engine, or what guards it, raised. An engine's own failure is not told to strangers."""
    status, body = engine_error_body(error)
    after = getattr(error, "retry_after", None)
    headers = None if after is None else {"Retry-After": str(max(1, math.ceil(after)))}
    return json_response(body, status, headers)


def engine_error_body(error: BadRequestError | BusyError | EngineError) -> tuple[int, dict[str, Any]]:
    """The status and the body of :func:`engine_error`."""
    if isinstance(error, UnknownModelError):
        return 404, error_body(404, str(error), error.param, "model_not_found")
    if isinstance(error, BadRequestError):
        code = "unsupported_parameter" if isinstance(error, UnsupportedError) else None
        return 400, error_body(400, str(error), error.param, code)
    if isinstance(error, BusyError):
        return 429, error_body(429, str(error))
    if isinstance(error, ClosedError):
        return 503, error_body(503, str(error), code="unavailable")
    return 503, error_body(503, "The model could not answer. The server's log says why.", code="engine_error")


def invalid(problems: Sequence[Mapping[str, Any]]) -> Response:
    """The first thing that is wrong with a request's body, and how many more there are."""
    first = problems[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, BadRequestError):
        return engine_error(raised)
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        message = f"The body is not JSON: {reason} (character {first['loc'][-1]})."
        return json_response(error_body(400, message, code="invalid_json"), 400)
    param = _param(first["loc"])
    if param is None and first["type"] == "string_unicode":
        return json_response(error_body(400, "A field's name holds half a character."), 400)
    if param is None:
        message = "The body must be a JSON object, sent with `Content-Type: application/json`."
        return json_response(error_body(400, message), 400)
    more = f" {len(problems) - 1} more of its fields are wrong." if len(problems) > 1 else ""
    message = f"`{param}`: {first['msg']}.{more}"
    return json_response(error_body(400, message, param, first["type"]), 400)


def _param(place: Sequence[str | int]) -> str | None:
    """``("body", "messages", 0, "<user>", "content")`` -> ``messages[0].content``; ``<...>`` tags a union."""
    path = ""
    for step in place[1:]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("<"):
            path += f".{step}" if path else step
    return path or None
