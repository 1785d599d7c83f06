"""An LLM's endpoint in this process, which answers each request as a test tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from benchmarks.stub_llm import completion

from vistune.llm.budget import Budget
from vistune.llm.client import Endpoint, LlmClient
from vistune.llm.ledger import Ledger
from vistune.llm.prices import Price
from vistune.llm.request import ChatReply, ChatRequest

Answer = Callable[[int, dict[str, Any]], Awaitable[web.StreamResponse]]


class FakeEndpoint:
    """An async context manager. ``answer`` gets a request's number, from 0, and its body.

    Attributes:
        bodies, times, keys: of the requests so far, in their order.
        most_at_once: requests that were being answered at the same time.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: list[str] = []
        self._now, self.most_at_once = 0, 0

    async def __aenter__(self) -> FakeEndpoint:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._handle)
        self._server = TestServer(app)
        await self._server.start_server()
        self.url = str(self._server.make_url("/v1"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        number, body = len(self.bodies), await request.json()
        self.bodies.append(body)
        self.times.append(time.monotonic())
        self.keys.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await self._answer(number, body)
        finally:
            self._now -= 1

    @property
    def asked(self) -> list[str]:
        """The last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


def reply(body: dict[str, Any], text: str = "Fine.") -> web.Response:
    """A complete reply."""
    return web.json_response(completion(body, text))


def error(status: int, message: str = "oops", code: str | None = None, **headers: str) -> web.Response:
    """An error, as the API words it."""
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=headers)


async def always_fine(number: int, body: dict[str, Any]) -> web.StreamResponse:
    return reply(body, f"Reply to {body['messages'][-1]['content']}.")


def request(text: str, **parameters: Any) -> ChatRequest:
    return ChatRequest("stub", (("system", "Be brief."), ("user", text)), parameters)


def ask_all(
    answer: Answer,
    ledger: Path,
    texts: Sequence[str],
    price: Price | None = None,
    most: float | None = None,
    **settings: Any,
) -> tuple[list[ChatReply | BaseException], FakeEndpoint]:
    """Ask everything at once; the replies or errors, in the order of ``texts``, and the endpoint."""

    async def run() -> tuple[list[ChatReply | BaseException], FakeEndpoint]:
        async with FakeEndpoint(answer) as endpoint:
            with Ledger(ledger) as opened:
                client = LlmClient(Endpoint(endpoint.url, **settings), opened, Budget(price, most))
                asking = asyncio.gather(*(client.ask(request(t)) for t in texts), return_exceptions=True)
                try:
                    return await asyncio.wait_for(asking, 120), endpoint
                finally:
                    await client.close()

    return asyncio.run(run())
