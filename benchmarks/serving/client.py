"""A client of ``/v1/chat/completions``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from .servers import Server

_PATIENCE = httpx.Timeout(600.0)
_JSON = {"Content-Type": "application/json"}


class FailedError(Exception):
    """There is no answer, or half of one."""


@dataclass(frozen=True)
class Answer:
    """``text`` has no outer white space; ``tokens``: written, STOP included; ``finish``: stop or length."""

    text: str
    tokens: int
    finish: str


class Client:
    """One user with a connection of their own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # no certificates: reading them takes as long as a short answer
        self.http = httpx.AsyncClient(base_url=server.url, timeout=_PATIENCE, verify=False, trust_env=False)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    def body(self, messages: Sequence[dict[str, Any]], most: int, **more: Any) -> dict[str, Any]:
        """What is sent: greedy, if nothing else is said."""
        asked = {"model": self._server.model, "messages": list(messages), "max_tokens": most}
        return {**asked, "temperature": 0.0, **more}

    async def post(self, body: bytes) -> httpx.Response:
        """The response to any body.

        Raises:
            FailedError: there is none.
        """
        try:
            return await self.http.post("/v1/chat/completions", content=body, headers=_JSON)
        except httpx.HTTPError as error:
            raise FailedError(f"{type(error).__name__}: {error}") from error

    async def ask(self, messages: Sequence[dict[str, Any]], most: int) -> Answer:
        """The answer, whole.

        Raises:
            FailedError: there is none.
        """
        response = await self.post(json.dumps(self.body(messages, most)).encode())
        if response.status_code != 200:
            raise FailedError(f"{response.status_code}: {response.text[:300]}")
        content = response.json()
        choice = content["choices"][0]
        text = choice["message"]["content"].strip()
        return Answer(text, content["usage"]["completion_tokens"], choice["finish_reason"])

    async def listen(self, messages: Sequence[dict[str, Any]], most: int) -> Answer:
        """The answer, streamed.

        Raises:
            FailedError: there is none, or it breaks off.
        """
        options = {"include_usage": True}
        text, finish, tokens, done = "", "", 0, False
        async with self.stream(messages, most, stream_options=options) as events:
            async for event in events:
                if event == "[DONE]":
                    done = True
                    break
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or ""
                    finish = choice["finish_reason"] or finish
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        if not (done and finish and tokens):
            raise FailedError(f"the stream broke off after {text!r}")
        return Answer(text.strip(), tokens, finish)

    @asynccontextmanager
    async def stream(
        self, messages: Sequence[dict[str, Any]], most: int, **more: Any
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """The events of a stream. Leaving it early hangs up.

        Raises:
            FailedError: there is no answer, or an error in the place of an event.
        """
        body = self.body(messages, most, stream=True, **more)
        try:
            async with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise FailedError(f"{response.status_code}: {response.text[:300]}")
                yield _events(response)
        except httpx.HTTPError as error:
            raise FailedError(f"{type(error).__name__}: {error}") from error


async def _events(response: httpx.Response) -> AsyncIterator[Any]:
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        data = line.removeprefix("data: ")
        event = data if data == "[DONE]" else json.loads(data)
        if "error" in event:
            raise FailedError(f"in the stream: {data[:300]}")
        yield event
