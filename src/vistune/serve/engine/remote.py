"""An OpenAI-compatible server that runs already, behind our guards and our page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import openai

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.llm.faults import retry_after
from vistune.serve.engine.as_openai import Trim, read_chunk, to_body
from vistune.serve.engine.engine import (
    BadRequestError,
    BusyError,
    ChatRequest,
    EngineError,
    Finish,
    Piece,
    Usage,
)
from vistune.serve.engine.server import NO_KEY, Server, find_server, hint_of, is_here, kind_of, read_key

_CONNECT, _SILENCE = 5.0, 300.0  # seconds: to connect; without a byte, which the first token of a queue takes
_AFTER_A_WHILE, _LONGEST_WHILE = 1.0, 3600.0
_MOST_OF_A_REASON = 300  # characters of a server's message that a user is shown


@dataclass(frozen=True)
class RemoteOptions:
    """How a server is asked.

    Attributes:
        in_flight: requests at a time; more are told to come again.
        reserved: texts that it would read as a picture or a special token: refused in what users write.
        stops: texts that end an answer, besides what users name and the server knows.
    """

    in_flight: int = 256
    reserved: Sequence[str] = (IMAGE_PLACEHOLDER,)
    stops: Sequence[str] = ()


class Remote:
    """Answers with what an OpenAI-compatible server answers; an :class:`vistune.serve.engine.engine.Engine`.

    The key is read from the environment variable ``OPENAI_API_KEY``.
    """

    def __init__(
        self,
        name: str,
        server: Server,
        card: Mapping[str, Any] | None = None,
        options: RemoteOptions | None = None,
    ) -> None:
        self.name, self.context = name, server.context
        told = {"engine": "an OpenAI-compatible server", "model": server.model, "context": server.context}
        self.card: Mapping[str, Any] = told if card is None else card
        self._server, self._options = server, options or RemoteOptions()
        self._client: openai.AsyncOpenAI | None = None
        self._running = 0
        self._counts = {"tokens_read": 0, "tokens_cached": 0, "tokens_written": 0, "failed": 0}

    @classmethod
    def connect(
        cls,
        base_url: str,
        model: str | None = None,
        name: str | None = None,
        options: RemoteOptions | None = None,
    ) -> Remote:
        """Find the server, and its model where it is not named; ``name``: by which it is asked for here.

        Raises:
            VistuneError: nothing answers there, the key is refused, or the model cannot be told.
        """
        server = find_server(base_url, model)
        return cls(name or server.model, server, None, options)

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        if self._running >= self._options.in_flight:
            raise BusyError(_AFTER_A_WHILE)
        self._running += 1
        try:
            model, options = self._server.model, self._options
            body = await asyncio.to_thread(to_body, request, model, options.reserved, options.stops)
            async with aclosing(self._stream(body)) as pieces:
                async for piece in pieces:
                    yield piece
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            ours = to_engine_error(error, self._server)
            self._counts["failed"] += isinstance(ours, EngineError)
            raise ours from None  # theirs may repeat the key, or what was asked
        finally:
            self._running -= 1

    def state(self) -> Mapping[str, float]:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        return {"running": self._running, "waiting": 0, **self._counts}

    async def close(self) -> None:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        if self._client is not None:
            await self._client.close()

    async def _stream(self, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        """The answer's pieces; closing the iterator closes the connection, which cancels it there."""
        finish: Finish | None = None
        usage: Usage | None = None
        trim = Trim()
        stream = await self._library().chat.completions.create(**body)
        try:
            async for chunk in stream:
                piece = read_chunk(chunk)
                finish, usage = piece.finish or finish, piece.usage or usage
                if text := trim.add(piece.text):
                    yield Piece(text)
        finally:
            await stream.close()
        if finish is None:
            self._counts["failed"] += 1
            raise EngineError(f"{self._server.address}: an answer broke off before its end.")
        self._count(usage or Usage(0, 0))
        yield Piece("", finish, usage)

    def _count(self, usage: Usage) -> None:
        self._counts["tokens_read"] += usage.prompt
        self._counts["tokens_cached"] += usage.cached
        self._counts["tokens_written"] += usage.completion

    def _library(self) -> openai.AsyncOpenAI:
        """The client library, opened by the first request: its connections belong to the running loop."""
        if self._client is None:
            self._client = openai.AsyncOpenAI(
                api_key=read_key() or NO_KEY,
                base_url=self._server.address,
                max_retries=0,  # who asks decides; the page and OpenAI's clients try again by themselves
                timeout=openai.Timeout(_SILENCE, connect=_CONNECT),
                http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_here(self._server.address)),
            )
        return self._client


def to_engine_error(error: Exception, server: Server) -> Exception:
    """What an error of the client library means to who asked, or to who runs this.

    The body of a server's error is shown only where it is about what was asked.
    """
    if not isinstance(error, openai.APIStatusError):
        return EngineError(f"{server.address}: {kind_of(error)}.")
    status = error.status_code
    if status in (400, 413, 422):
        return BadRequestError(_reason(error), error.param if isinstance(error.param, str) else None)
    if status == 429 and error.code != "insufficient_quota":
        asked = retry_after(error.response.headers.get("retry-after"))
        return BusyError(asked if 0 < asked <= _LONGEST_WHILE else _AFTER_A_WHILE)
    return EngineError(f"{server.address}: answered {status}{hint_of(status, server.model)}")


def _reason(error: openai.APIStatusError) -> str:
    """What the server says of a request that it refuses, on one line, without our key."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    if error.status_code == 413:
        message = message or "The request is too large."
    if not isinstance(message, str) or not message.strip():
        return "The model's server refused the request."
    if key := read_key():
        message = message.replace(key, "[key]")
    return " ".join(message.split())[:_MOST_OF_A_REASON]
