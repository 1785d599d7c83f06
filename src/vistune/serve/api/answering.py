"""A request's body -> pieces of an answer -> what OpenAI's clients read, at once or as it is written."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vistune.serve.api.desk import Desk
from vistune.serve.api.errors import ClosedError, engine_error_body, error_body
from vistune.serve.api.failures import log_failure
from vistune.serve.api.metrics import Metrics
from vistune.serve.api.reading import read_request
from vistune.serve.api.wire import ChatBody
from vistune.serve.engine.engine import (
    BadRequestError,
    BusyError,
    ChatRequest,
    Engine,
    EngineError,
    Piece,
    Usage,
)
from vistune.serve.guards.limits import Limits

logger = logging.getLogger("vistune.serve")


@dataclass(frozen=True)
class Answerer:
    """Answers requests. ``log_content``: questions and answers are logged, else nothing of them is."""

    desk: Desk
    limits: Limits
    metrics: Metrics
    log_content: bool = False

    async def respond(self, body: ChatBody, receive: Receive) -> Response:
        """The response to a request, once its answer has begun or, without streaming, is complete.

        Raises:
            BadRequestError, BusyError, EngineError, ClientGoneError: there is no answer.
        """
        pieces = self.answer(body)
        try:
            first = await self.desk.while_heard(receive, anext(pieces))
            reply = Reply(body.model)
            if body.stream:
                return EventStream(self.desk, reply, first, pieces, body.include_usage)
            content = await self.desk.while_heard(receive, _complete(reply, first, pieces))
        except BaseException:
            await pieces.aclose()
            raise
        return Response(json.dumps(content), media_type="application/json")

    async def answer(self, body: ChatBody) -> AsyncGenerator[Piece, None]:
        """The answer's pieces; the last one has ``finish``. Closing it cancels the answer in the engine."""
        engine = self.desk.engine(body.model)
        with self.metrics.answering(engine.name) as watch, self.desk.place(engine.name):
            request = await read_request(body, self.limits, self.metrics)
            said = ""
            async with aclosing(_pieces(engine, request, self.limits.max_tokens)) as pieces:
                async for piece in pieces:
                    watch.see(piece)
                    said += piece.text if self.log_content else ""
                    yield piece
            if self.log_content:
                logger.info("asked %r, answered %r", request.conversation.turns[-1].text, said)


async def _pieces(engine: Engine, request: ChatRequest, most: int) -> AsyncGenerator[Piece, None]:
    """The engine's pieces, checked. Where no number of tokens was wanted, it is ``most``, or what there is
    room for if that is fewer.
    """
    free = request.sampling.max_tokens is None
    if free and (engine.context is None or engine.context > most):
        bounded = replace(request, sampling=replace(request.sampling, max_tokens=most))
    else:
        bounded, free = request, False
    begun = finished = False
    try:
        async with _closing(engine.answer(bounded)) as pieces:
            async for piece in pieces:
                begun, finished = True, piece.finish is not None
                yield piece
                if finished:
                    return
    except BadRequestError:
        if begun or not free:
            raise
    else:
        raise EngineError("the answer broke off")
    # So many tokens do not fit after this conversation: the room that is left is fewer still
    async with _closing(engine.answer(request)) as pieces:
        async for piece in pieces:
            finished = piece.finish is not None
            yield piece
            if finished:
                return
    raise EngineError("the answer broke off")


def _closing(pieces: AsyncIterator[Piece]) -> aclosing[AsyncGenerator[Piece, None]]:
    return aclosing(cast("AsyncGenerator[Piece, None]", pieces))


@dataclass
class Reply:
    """What a completion and its chunks have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self.head("chat.completion.chunk") | {"choices": [choice]}


async def _complete(reply: Reply, first: Piece, rest: AsyncIterator[Piece]) -> dict[str, Any]:
    text, last = [first.text], first
    async for piece in rest:
        text.append(piece.text)
        last = piece
    message = {"role": "assistant", "content": "".join(text), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
    return reply.head("chat.completion") | {"choices": [choice], "usage": _usage(last.usage)}


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


class EventStream(Response):
    """Server-sent events, one a piece. What goes wrong on the way is the last event."""

    def __init__(
        self, desk: Desk, reply: Reply, first: Piece, rest: AsyncGenerator[Piece, None], include_usage: bool
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.status_code, self.media_type, self.background = 200, "text/event-stream", None
        self.init_headers(headers)
        del self.headers["content-length"]
        self._desk, self._reply, self._first, self._rest = desk, reply, first, rest
        self._include_usage = include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises:
        ClientGoneError: the client hung up; the answer is cancelled.
        """
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await self._desk.while_heard(receive, self._send(send))
        except ClosedError as error:
            await send(_event(engine_error_body(error)[1]))
        finally:
            await self._rest.aclose()
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send) -> None:
        try:
            async for event in self._events():
                await send(_event(event))
            await send(_event("[DONE]"))
        except (BadRequestError, BusyError, EngineError) as error:
            log_failure(error)
            await send(_event(engine_error_body(error)[1]))
        except Exception as error:
            log_failure(error)
            await send(_event(error_body(500, "The server failed. Its log says where.")))

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        usage: dict[str, Any] = {"usage": None} if self._include_usage else {}
        yield self._reply.chunk({"role": "assistant", "content": ""}) | usage
        last = self._first
        if last.text:
            yield self._reply.chunk({"content": last.text}) | usage
        async for last in self._rest:
            if last.text:
                yield self._reply.chunk({"content": last.text}) | usage
        yield self._reply.chunk({}, last.finish) | usage
        if self._include_usage:
            told: dict[str, Any] = {"choices": [], "usage": _usage(last.usage)}
            yield self._reply.head("chat.completion.chunk") | told


def _event(data: dict[str, Any] | str) -> dict[str, Any]:
    text = data if isinstance(data, str) else json.dumps(data)
    return {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True}
