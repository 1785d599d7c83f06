"""A server that speaks the chat completions API over HTTP, with the latency and the faults it is told.

What it replies depends on the messages alone, so that a run with faults can be compared with one without.
It counts what it gave away: a complete reply is what an endpoint would charge for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from aiohttp import web


@dataclass(frozen=True)
class Faults:
    """Shares of requests that go wrong, and seconds."""

    too_many: float = 0.0  # 429, with Retry-After
    server_error: float = 0.0  # 500
    hang: float = 0.0
    truncated: float = 0.0
    refusal: float = 0.0
    dropped: float = 0.0
    retry_after: int = 1
    seed: int = 0


class StubLlm:
    """The server's state."""

    def __init__(self, latency: float, faults: Faults) -> None:
        self._latency, self._faults = latency, faults
        self._random = random.Random(faults.seed)
        self._given: Counter[str] = Counter()  # complete replies by request
        self._requests = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/counts", self._counts)
        return app

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._requests += 1
        kind = self._draw()
        if kind == "too_many":
            wait = {"Retry-After": str(self._faults.retry_after)}
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=wait)
        await asyncio.sleep(self._latency)
        if kind == "server_error":
            return web.json_response({"error": {"message": "oops"}}, status=500)
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "dropped":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        reply = json.dumps(completion(body, "I'm sorry, I can't help." if kind == "refusal" else None))
        if kind == "truncated":
            return web.Response(text=reply[: len(reply) // 2], content_type="application/json")
        self._given[hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()] += 1
        return web.Response(text=reply, content_type="application/json")

    def _draw(self) -> str | None:
        draw = self._random.random()
        for kind in ("too_many", "server_error", "hang", "truncated", "refusal", "dropped"):
            if (draw := draw - getattr(self._faults, kind)) < 0:
                return kind
        return None

    async def _counts(self, _: web.Request) -> web.Response:
        twice = sum(count > 1 for count in self._given.values())
        counts = {"requests": self._requests, "replies": sum(self._given.values()), "paid_twice": twice}
        return web.json_response(counts)


def completion(body: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    """A chat completion, as the API words it."""
    text = text or written(body["messages"])
    usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4}
    usage["completion_tokens"] = len(text) // 4
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {
        "id": "stub",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


def written(messages: list[dict[str, str]]) -> str:
    """A reply in the format that the system message asks for, told by the last message."""
    name = hashlib.sha256(messages[-1]["content"].encode()).hexdigest()[:8]
    if "Write prose alone" in messages[0]["content"]:
        return f"A quiet place named {name}. Something stands on the left, and something else on the right."
    pairs = 1 if "Write one such pair" in messages[0]["content"] else 3
    turns = [
        f"Question:\nWhat is thing {number} of {name}?\n===\nAnswer:\nIt is thing {number}, near {name}."
        for number in range(pairs)
    ]
    return "\n===\n".join(turns)


@contextmanager
def served(latency: float = 0.0, faults: Faults | None = None) -> Iterator[str]:
    """The base URL of a stub in a process of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(port, latency, faults or Faults()), daemon=True
    )
    process.start()
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.join()


def counts(base_url: str) -> dict[str, int]:
    """What the stub at ``base_url`` has given away so far."""
    with urlopen(base_url.removesuffix("/v1") + "/counts") as response:
        result: dict[str, int] = json.load(response)
    return result


def _serve(port: int, latency: float, faults: Faults) -> None:
    web.run_app(StubLlm(latency, faults).app(), host="127.0.0.1", port=port, print=None, access_log=None)


def _wait_for(port: int) -> None:
    for _ in range(1200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the stub did not start")
