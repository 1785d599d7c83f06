"""Asking the API: one or two models at once, word by word, until they are done or stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vistune.serve.page.talk import Exchange, PictureError, Talk

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_BETWEEN = 0.05  # seconds between two pictures of an answer that grows; the page redraws all of it
_SIGN = 1.0  # seconds after which the page is shown again although nothing came: so a closed tab is noticed


@dataclass(frozen=True)
class Settings:
    """As the sliders stand; None: the server's own."""

    temperature: float
    top_p: float
    max_tokens: int | None = None
    seed: int | None = None

    def fields(self) -> dict[str, Any]:
        """Of a request."""
        given = {"max_tokens": self.max_tokens, "seed": self.seed}
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            **{name: value for name, value in given.items() if value is not None},
        }


def connect(api_url: str, key: str | None) -> AsyncOpenAI:
    """A client to the server's own address: past any proxy, and never twice where once has failed."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout

    timeout = Timeout(None, connect=5.0)  # an answer may wait long in the queue; Stop ends it
    http = DefaultAsyncHttpxClient(trust_env=False, timeout=timeout)
    return AsyncOpenAI(
        base_url=api_url, api_key=key or "none", max_retries=0, timeout=timeout, http_client=http
    )


class Asker:
    """Answers under way, by the browser's session."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._running: dict[str, set[asyncio.Task[None]]] = {}

    def busy(self, session: str) -> bool:
        return session in self._running

    def stop(self, session: str) -> None:
        """Cancel what a session asked; the API sees the connection close."""
        for task in self._running.get(session, ()):
            task.cancel()

    async def ask(
        self, session: str, talks: Sequence[Talk], settings: Settings
    ) -> AsyncGenerator[bool, None]:
        """Answer the last question of each talk, in place, all at once.

        Yields:
            Whether there is something new to show. Closing the iterator cancels the answers.
        """
        news = asyncio.Event()
        tasks = {asyncio.create_task(self._answer(talk, settings, news)) for talk in talks}
        running = self._running.setdefault(session, set())
        running |= tasks
        try:
            while not all(task.done() for task in tasks):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), _SIGN)
                yield news.is_set()
                news.clear()
                await asyncio.sleep(_BETWEEN)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            running -= tasks
            if not running:
                self._running.pop(session, None)
        yield True

    async def _answer(self, talk: Talk, settings: Settings, news: asyncio.Event) -> None:
        """Errors end up in the exchange's note; only what is a fault of the page itself is raised."""
        from openai import APIError

        exchange = talk.exchanges[-1]
        exchange.state = "writing"
        try:
            await self._stream(talk, exchange, settings, news)
            exchange.state = "done"
        except asyncio.CancelledError:
            exchange.state, exchange.note = "stopped", "Stopped."
        except PictureError as error:
            exchange.state, exchange.note = "failed", str(error)
        except APIError as error:
            exchange.state, exchange.note = "failed", _told(error)
        finally:
            news.set()

    async def _stream(self, talk: Talk, exchange: Exchange, settings: Settings, news: asyncio.Event) -> None:
        start = time.perf_counter()
        first = None
        messages: Any = await asyncio.to_thread(talk.sent, len(talk.exchanges) - 1)
        stream = await self._client.chat.completions.create(
            model=exchange.model,
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            **settings.fields(),
        )
        async with stream:
            async for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    first = first or time.perf_counter() - start
                    exchange.answer += text
                    news.set()
                if chunk.choices and chunk.choices[0].finish_reason == "length":
                    exchange.note = "Cut off at the most tokens that were allowed."
                if chunk.usage:
                    exchange.tokens = chunk.usage.completion_tokens
        exchange.seconds = (first or 0.0, time.perf_counter() - start)


def _told(error: Any) -> str:
    """What the user is told of an error of the API."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIConnectionError):
        return "The server could not be reached."
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or error.message)
    if isinstance(error, APIStatusError) and error.status_code == 429:
        wait = error.response.headers.get("retry-after", "")
        return f"{message} Try again in {wait} s." if wait.isdecimal() else message
    return message
