"""An OpenAI-compatible server that is small, in the place of ours: it streams, and remembers what it saw."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

WORDS = ["A ", "dog ", "and ", "two ", "cats."]


@dataclass
class FakeApi:
    """What it says, and what it was asked.

    Attributes:
        words: of each answer; ``{n}`` becomes the number of the request.
        pause: seconds before each word.
        refusal: status and body instead of an answer.
    """

    words: list[str] = field(default_factory=lambda: list(WORDS))
    pause: float = 0.0
    refusal: tuple[int, dict[str, Any], dict[str, str]] | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    votes: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    cut_off: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Any:
            self.requests.append(await request.json())
            self.headers.append(dict(request.headers))
            if self.refusal:
                status, body, headers = self.refusal
                return JSONResponse({"error": body}, status, headers)
            return StreamingResponse(self._answer(len(self.requests)), media_type="text/event-stream")

        @app.post("/v1/votes")
        async def votes(request: Request) -> Any:
            self.votes.append(await request.json())
            return JSONResponse({}, 201)

        return app

    async def _answer(self, number: int) -> AsyncIterator[str]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        finished = False
        try:
            for word in self.words:
                await asyncio.sleep(self.pause)
                yield _event({"delta": {"content": word.replace("{n}", str(number))}, "index": 0})
            yield _event({"delta": {}, "index": 0, "finish_reason": "stop"})
            yield _event(None, {"prompt_tokens": 9, "completion_tokens": len(self.words), "total_tokens": 0})
            yield "data: [DONE]\n\n"
            finished = True
        finally:
            self.running -= 1
            self.cut_off += not finished


def _event(choice: dict[str, Any] | None, usage: dict[str, int] | None = None) -> str:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "fake"}
    return "data: " + json.dumps({**chunk, "choices": [choice] if choice else [], "usage": usage}) + "\n\n"


@contextmanager
def serving(make: Callable[[str], FastAPI]) -> Iterator[str]:
    """Run the application that ``make`` gives for its own address; yields that address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = make(address)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the server did not start"
            time.sleep(0.02)
        try:
            yield address
        finally:
            if page := getattr(app.state, "page", None):
                loops[0].call_soon_threadsafe(page.close)
            server.should_exit = True
            thread.join(20)
