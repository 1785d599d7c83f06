"""What every request passes first: the key, the body's size, the log, and the last net for errors."""

from __future__ import annotations

import hmac
import logging
import time

from fastapi import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vistune.serve.api.errors import ClientGoneError, error_body, http_error, json_response
from vistune.serve.api.failures import log_failure
from vistune.serve.api.metrics import Metrics

logger = logging.getLogger("vistune.serve")
PATHS = ("/v1/chat/completions", "/v1/models", "/v1/votes", "/health", "/metrics", "/openapi.json")
_GONE = 499  # the client hung up


class Front:
    """An ASGI application before another.

    Args:
        body_bytes: of any request, whether or not it says beforehand how long it is.
        key: that ``/v1`` and ``/metrics`` ask for; None: they are open.
    """

    def __init__(self, app: ASGIApp, body_bytes: int, key: str | None, metrics: Metrics) -> None:
        self._app, self._most, self._metrics = app, body_bytes, metrics
        self._key = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refuse(scope)
            await (refused or self._app)(scope, _limited(receive, self._most), noted)
        except ClientGoneError:
            status = status or _GONE
        except Exception as error:
            log_failure(error)
            if not status:
                await http_error(500)(scope, receive, noted)
        finally:
            self._note(scope, status or _GONE, time.perf_counter() - start)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        path = scope["path"]
        if self._key is not None and (path.startswith("/v1/") or path in ("/v1", "/metrics")):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._key):
                message = (
                    "The API key is wrong." if given else "Give the API key: `Authorization: Bearer KEY`."
                )
                return json_response(error_body(401, message), 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._most:
            return http_error(413, _too_large(self._most))
        return None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """A line without the query, and the figures; ``raw_path`` has no line breaks in it."""
        path = next((known for known in PATHS if scope["path"] == known), "other")
        if path == "other" and scope["path"].startswith("/v1/models/"):
            path = "/v1/models"
        self._metrics.requests.labels(path, str(status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        level = logging.INFO if path.startswith("/v1") else logging.DEBUG
        logger.log(level, "%s %s %d %.3f s", scope["method"], path, status, seconds)


def _limited(receive: Receive, most: int) -> Receive:
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise HTTPException(413, _too_large(most))
        return message

    return limited


def _too_large(most: int) -> str:
    return f"The body is larger than the {most} bytes allowed."
