"""An hour's load in miniature: many clients, some of whom hang up midway or send rubbish."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import rubbish
from .client import Client, FailedError
from .servers import Server, serve_vistune
from .trial import Trial, asked, followed

CACHE_GB = 0.1  # full, and letting go of the oldest, before memory is first measured
_LEAVE, _RUBBISH = 0.1, 0.1  # shares of requests
_LONG = 1000  # tokens that are asked for by whoever does not stay to read them
_WARM, _WINDOW = 0.2, 0.1  # shares of the time
_LOOK = 0.5  # seconds between two looks at the memory
_SETTLE = 20.0  # seconds in which what was cancelled must be freed
_EXAMPLES, _COURSE = 5, 30


@dataclass
class Tally:
    """What clients saw. ``stayed``: had everything before they could hang up."""

    good: int = 0
    tokens: int = 0
    left: int = 0
    stayed: int = 0
    failed: int = 0
    misanswered: int = 0
    rubbish: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(what)


def measure(trial: Trial, questions: Sequence[str], clients: int, minutes: float) -> dict[str, Any]:
    """One server under load, and what is left of it in the end."""
    with serve_vistune(trial.folder, "--cache", str(CACHE_GB)) as server:
        seconds = 60 * minutes
        tally, memory = asyncio.run(_load(server, trial, questions, clients, seconds))
        freed, cancelled, in_engine = _settle(server, tally, trial.fixed)
        cache = server.figure("vistune_engine_cache_bytes")
    warm = [size for at, size, _ in memory if _WARM <= at / seconds <= _WARM + _WINDOW]
    end = [size for at, size, _ in memory if at / seconds >= 1 - _WINDOW]
    growth = statistics.median(end) / statistics.median(warm) - 1
    print(f"{trial.name} load: {tally.good} good, {tally.failed} failed, {growth:+.1%}", file=sys.stderr)
    return {
        "good_request_errors": tally.failed,
        "memory_growth": growth,
        "cancelled_freed": freed,
        "minutes": minutes,
        "clients": clients,
        "good_answers": tally.good,
        "new_tokens": tally.tokens,
        "hung_up": tally.left,
        "could_not_hang_up": tally.stayed,
        "cancelled": {"by_the_api": cancelled, "in_the_engine": in_engine},
        "rubbish": dict(sorted(tally.rubbish.items())),
        "rubbish_misanswered": tally.misanswered,
        "examples_of_errors": tally.examples,
        "memory_mib": {
            "warm": statistics.median(warm),
            "end": statistics.median(end),
            "peak": max(size for _, size, _ in memory),
            "course": [round(size) for _, size, _ in memory[:: 1 + len(memory) // _COURSE]],
        },
        "cache_bytes": {"warm": _cache_at(memory, _WARM * seconds), "end": cache},
    }


Memory = list[tuple[float, float, float]]  # seconds, MiB of the server, bytes in its cache


async def _load(
    server: Server, trial: Trial, questions: Sequence[str], clients: int, seconds: float
) -> tuple[Tally, Memory]:
    begun, tally, memory = time.monotonic(), Tally(), Memory()
    watch = asyncio.create_task(_watch(server, memory, begun))
    users = [User(number, server, trial, questions, tally) for number in range(clients)]
    await asyncio.gather(*(user.go_on(begun + seconds) for user in users))
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    return tally, memory


async def _watch(server: Server, memory: Memory, begun: float) -> None:
    while True:
        cache = await asyncio.to_thread(server.figure, "vistune_engine_cache_bytes")
        memory.append((time.monotonic() - begun, server.resident(), cache))
        await asyncio.sleep(_LOOK)


def _cache_at(memory: Memory, moment: float) -> float:
    return next(cache for at, _, cache in memory if at >= moment)


def _settle(server: Server, tally: Tally, exact: bool) -> tuple[bool, float, float]:
    """Once the last client has gone: whether soon nothing runs or waits and every answer is accounted for;
    answers that the API cancelled, and that the engine did.

    Args:
        exact: no answer that was left can have ended by itself.
    """
    end = time.monotonic() + _SETTLE
    while True:
        idle = not any(server.figure(f"vistune_engine_{name}") for name in ("running", "waiting"))
        ended = sum(server.figure("vistune_answers_total", f'end="{how}"') for how in ("stop", "length"))
        cancelled = server.figure("vistune_answers_total", 'end="cancelled"')
        in_engine = server.figure("vistune_engine_cancelled_total")
        accounted = ended + cancelled == tally.good + tally.stayed + tally.left
        freed = idle and accounted and in_engine <= cancelled <= tally.left
        if exact:
            freed &= in_engine == tally.left
        if freed or time.monotonic() > end:
            return freed, cancelled, in_engine
        time.sleep(0.2)


@dataclass
class User:
    """One client, who asks as soon as the last answer is there."""

    number: int
    server: Server
    trial: Trial
    questions: Sequence[str]
    tally: Tally

    async def go_on(self, end: float) -> None:
        rng = random.Random(f"user {self.number}")
        async with Client(self.server) as client:
            while time.monotonic() < end:
                drawn = rng.random()
                try:
                    if drawn < _LEAVE:
                        await self._leave(client, rng)
                    elif drawn < _LEAVE + _RUBBISH:
                        await self._annoy(client, rng)
                    else:
                        await self._converse(client, rng)
                except FailedError as error:
                    self.tally.failed += 1
                    self.tally.note(str(error))

    def _question(self, rng: random.Random) -> list[dict[str, Any]]:
        return [asked(rng.choice(self.questions), rng.choice(self.trial.pictures))]

    async def _converse(self, client: Client, rng: random.Random) -> None:
        messages = self._question(rng)
        for turn in range(rng.randint(1, 3)):
            ask = client.listen if rng.random() < 0.5 else client.ask
            answer = await ask(messages, self.trial.most)
            self.tally.good += 1
            self.tally.tokens += answer.tokens
            messages = followed(messages, answer.text, self.questions[turn])

    async def _leave(self, client: Client, rng: random.Random) -> None:
        """Hang up after some words of what would be a long answer: that of a model that does not end by
        itself, or one drawn so wildly that it does not either."""
        temperature = 0.0 if self.trial.fixed else 2.0
        words = rng.randint(1, 3)
        async with client.stream(self._question(rng), _LONG, temperature=temperature) as events:
            async for event in events:
                if event == "[DONE]" or event["choices"][0]["finish_reason"]:
                    self.tally.stayed += 1
                    return
                words -= bool(event["choices"][0]["delta"].get("content"))
                if not words:
                    break
        self.tally.left += 1

    async def _annoy(self, client: Client, rng: random.Random) -> None:
        kind, (body, status) = rubbish.draw(rng, client.body(self._question(rng), self.trial.most))
        self.tally.rubbish[kind] += 1
        response = await client.post(body)
        if not rubbish.refused(response, status):
            self.tally.misanswered += 1
            self.tally.note(f"{kind}: {response.status_code}: {response.text[:300]}")
