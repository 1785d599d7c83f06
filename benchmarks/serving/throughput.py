"""Many clients at once over HTTP, against the same requests one after another through ``generate``."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Answer, Client
from .servers import Server, serve_vistune
from .trial import Trial, asked


@dataclass(frozen=True)
class Asked:
    """One request: a question about a picture."""

    picture: Path
    text: str


# one question after another -> the ids of each answer, without STOP
Generate = Callable[[Sequence[Asked]], list[list[int]]]


def measure(trial: Trial, rounds: Sequence[Sequence[Sequence[Asked]]], generate: Generate) -> dict[str, Any]:
    """Ours and theirs in turn.

    Args:
        rounds: [round][client][question], the first round to warm up. No picture is in two rounds.
    """
    seconds: dict[str, list[float]] = {"ours": [], "one_by_one": []}
    tokens: dict[str, list[int]] = {"ours": [], "one_by_one": []}
    same_as_alone = same_as_generate = count = 0
    with serve_vistune(trial.folder) as server:
        for number, clients in enumerate(rounds):
            requests = [one for client in clients for one in client]
            taken, answers = asyncio.run(_together(server, trial.most, clients))
            begun = time.perf_counter()
            ids = generate(requests)
            theirs = time.perf_counter() - begun
            if number == 0:
                continue
            _, alone = asyncio.run(_together(server, trial.most, [requests]))
            texts = [trial.checkpoint.tokenizer.decode(x, skip_special_tokens=True).strip() for x in ids]
            count += len(requests)
            same_as_alone += sum(a.text == b.text for a, b in zip(answers, alone, strict=True))
            same_as_generate += sum(a.text == b for a, b in zip(answers, texts, strict=True))
            seconds["ours"].append(taken)
            seconds["one_by_one"].append(theirs)
            tokens["ours"].append(sum(answer.tokens for answer in answers))
            tokens["one_by_one"].append(sum(len(x) + (len(x) < trial.most) for x in ids))  # with STOP
            print(f"{trial.name} round {number}: {taken:.2f} s, {theirs:.2f} s", file=sys.stderr)
            if trial.fixed and any(answer.tokens != trial.most for answer in answers):
                sys.exit(f"{trial.name}: an answer ended early, so that lengths are not fixed.")
    speed = {
        way: statistics.median(n / time for n, time in zip(tokens[way], seconds[way], strict=True))
        for way in seconds
    }
    return {
        "ratio": speed["ours"] / speed["one_by_one"],
        "clients": len(rounds[0]),
        "requests": count,
        "tokens_per_second": speed,
        "same_as_alone": same_as_alone / count,
        "same_as_generate": same_as_generate / count,
        "new_tokens": tokens,
        "seconds": seconds,
    }


async def _together(
    server: Server, most: int, clients: Sequence[Sequence[Asked]]
) -> tuple[float, list[Answer]]:
    """Seconds, and every client's answers, behind one another; a client asks when its last question is
    answered."""

    async def one(client: Client, questions: Sequence[Asked]) -> list[Answer]:
        return [await client.ask([asked(q.text, q.picture)], most) for q in questions]

    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(Client(server)) for _ in clients]
        begun = time.perf_counter()
        answers = await asyncio.gather(*map(one, users, clients))
        return time.perf_counter() - begun, [answer for client in answers for answer in client]
