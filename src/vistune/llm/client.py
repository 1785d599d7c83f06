"""Asks an OpenAI-compatible endpoint, patiently, and never twice for what was paid for."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any

import openai
from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from vistune.errors import VistuneError
from vistune.llm.breaker import Breaker
from vistune.llm.budget import Budget, worst_usage
from vistune.llm.faults import EndpointError, PassingFault, RequestRefusedError, to_fault
from vistune.llm.ledger import Ledger
from vistune.llm.request import BadReplyError, ChatReply, ChatRequest, read_reply

KEY_VARIABLE = "OPENAI_API_KEY"
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds between attempts; doubled each time
_MINUTE = 60.0


@dataclass(frozen=True)
class Endpoint:
    """Where the LLM is, and how hard it may be asked.

    Attributes:
        base_url: None for OpenAI's own.
        in_flight: requests at a time.
        timeout: seconds for one request.
        attempts: HTTP requests at most for one reply.
        patience: seconds without any success after which the endpoint counts as down.
        requests_per_minute, tokens_per_minute: None for no limit of our own.
    """

    base_url: str | None = None
    in_flight: int = 16
    timeout: float = 120.0
    attempts: int = 8
    patience: float = 60.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @property
    def name(self) -> str:
        return self.base_url or "https://api.openai.com/v1"


class RequestFailedError(Exception):
    """One request got no reply for good; the message says why. The others go on."""


class LlmClient:
    """Replies to requests, from the ledger or from the endpoint.

    The key is read from the environment variable ``OPENAI_API_KEY``.

    Raises:
        VistuneError: there is no key, and the endpoint is not the user's own.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, budget: Budget) -> None:
        self._endpoint, self._ledger, self.budget = endpoint, ledger, budget
        self._breaker = Breaker(endpoint.name, endpoint.patience)
        self._slots = asyncio.Semaphore(endpoint.in_flight)
        limited = endpoint.requests_per_minute or endpoint.tokens_per_minute
        self._limits = _Limits(endpoint) if limited else None
        self._asking: dict[str, asyncio.Future[ChatReply]] = {}
        self._stopped: VistuneError | None = None
        self._stopping = asyncio.Event()
        self._openai: openai.AsyncOpenAI | None = None
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self._key and endpoint.base_url is None:
            raise VistuneError(f"Set the environment variable {KEY_VARIABLE}, or pass --base-url.")
        if not (self._key.isascii() and self._key.isprintable()):
            raise VistuneError(f"{KEY_VARIABLE} holds characters that no key has. Set it again.")

    def _library(self) -> openai.AsyncOpenAI:
        """The client library, opened by the first request: its connections belong to the running loop."""
        if self._openai is None:
            self._openai = openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self._endpoint.name,  # said, or the library would look for one in the environment
                max_retries=0,  # retries are ours: the library's would hide attempts from the ledger
                http_client=openai.DefaultAioHttpClient(timeout=self._endpoint.timeout),
            )
        return self._openai

    async def close(self) -> None:
        """Close the connections."""
        if self._openai is not None:
            await self._openai.close()
            self._openai = None

    async def ask(self, request: ChatRequest) -> ChatReply:
        """The reply to ``request``.

        Raises:
            RequestFailedError: this request failed for good.
            EndpointError: the endpoint is down or refuses everything.
            BudgetReachedError: it could cost more than is left.
            VistuneError: the ledger cannot be written.
        """
        if (reply := self._ledger.reply(request.key)) is not None:
            return reply
        if (asking := self._asking.get(request.key)) is not None:
            return await asyncio.shield(asking)
        future = self._asking[request.key] = asyncio.get_running_loop().create_future()
        try:
            reply = await self._ask(request)
            future.set_result(reply)
            return reply
        except BaseException as error:
            if isinstance(error, Exception):
                future.set_exception(error)
                future.exception()  # seen, whether or not somebody else waits
            else:
                future.cancel()
            raise
        finally:
            del self._asking[request.key]

    async def _ask(self, request: ChatRequest) -> ChatReply:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(PassingFault),
            wait=_wait,
            stop=stop_after_attempt(self._endpoint.attempts),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, request)
        except PassingFault as fault:
            self._ledger.failed(request.key, str(fault), final=True)
            raise RequestFailedError(
                f"{self._endpoint.attempts} attempts failed; the last: {fault}"
            ) from fault
        except RequestRefusedError as refusal:
            self._ledger.failed(request.key, str(refusal), final=True)
            raise RequestFailedError(f"refused by the endpoint: {refusal}") from refusal
        except VistuneError as error:
            self._stopped = self._stopped or error
            self._stopping.set()
            raise

    async def _attempt(self, request: ChatRequest) -> ChatReply:
        async with self._slots:
            if self._limits:
                await self._unless_stopped(self._limits.wait(request))
            held, cost = await self.budget.hold(request), None
            try:
                if self._stopped:
                    raise self._stopped
                self._ledger.asked(request)
                body = await self._post(request)
                reply = read_reply(body)
                self._breaker.success()
                cost = self.budget.cost(request, reply.usage)
                self._ledger.done(request.key, body, reply.usage, cost)
                return reply
            except (BadReplyError, openai.OpenAIError) as error:
                raise self._count(request, error) from error
            finally:
                await self.budget.settle(held, cost)

    async def _post(self, request: ChatRequest) -> str:
        """The raw body of the endpoint's answer."""
        posting: Awaitable[Any] = self._library().chat.completions.with_raw_response.create(
            model=request.model,
            # In the extra body they are sent as they are: the library looks at every part of `messages`
            # for something to rename, which takes it longer than all the rest of a request.
            messages=[],
            extra_body={**request.parameters, "messages": request.body()["messages"]},
        )
        # The library's time-out is for each read; a reply that trickles must end, too.
        try:
            response = await asyncio.wait_for(posting, self._endpoint.timeout)
        except asyncio.TimeoutError:
            raise openai.APITimeoutError(request=None) from None  # type: ignore[arg-type]
        text: str = response.http_response.text
        return text

    def _count(self, request: ChatRequest, error: Exception) -> Exception:
        """Tell ledger and breaker of a failed attempt; returns the fault that it was."""
        fault = to_fault(error, self._endpoint.name, self._key)
        self._ledger.failed(request.key, str(fault), final=False)
        if isinstance(fault, PassingFault):
            self._breaker.failure(str(fault), fault.alive)
        elif isinstance(fault, RequestRefusedError):
            self._breaker.refusal(str(fault))
        return fault

    async def _sleep(self, seconds: float) -> None:
        await self._unless_stopped(asyncio.sleep(seconds))

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait; when the run stops, no longer."""
        waited, stopping = asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((waited, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waited.cancel()
            stopping.cancel()
        if self._stopped:
            raise self._stopped


class _Limits:
    """Requests and tokens per minute."""

    def __init__(self, endpoint: Endpoint) -> None:
        requests, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        # No burst: a minute's allowance is spread over the minute.
        self._requests = AsyncLimiter(1, _MINUTE / requests) if requests else None
        self._tokens = AsyncLimiter(tokens, _MINUTE) if tokens else None

    async def wait(self, request: ChatRequest) -> None:
        if self._requests:
            await self._requests.acquire()
        if self._tokens:
            usage = worst_usage(request)
            await self._tokens.acquire(min(usage.prompt + usage.completion, self._tokens.max_rate))


def _wait(state: RetryCallState) -> float:
    """Twice as long each time, a random share of it more or less; never less than the endpoint asks for."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.wait if isinstance(fault, PassingFault) else 0.0
    backoff = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (state.attempt_number - 1))
    return asked + backoff * random.uniform(0.5, 1.0)


__all__ = ["Endpoint", "EndpointError", "LlmClient", "RequestFailedError"]
