"""Two turns of many clients at once, over HTTP: our server, and ``transformers serve``."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from . import servers
from .client import Client
from .servers import Server
from .trial import Trial, asked, followed
from .ttft import FIRST, SECOND

Texts = list[list[str]]  # [client][turn]


def measure(trial: Trial, clients: int, rounds: int) -> dict[str, Any]:
    """One server at a time, each round with servers that are started anew."""
    ways = {"ours": servers.serve_vistune, "transformers": servers.serve_transformers}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    first: dict[str, list[float]] = {way: [] for way in ways}
    texts: dict[str, Texts] = {}
    for number in range(rounds):
        for way, serve in ways.items():
            with serve(trial.folder) as server:
                begun = time.perf_counter()
                asyncio.run(_crowd(server, trial, 1, trial.pictures[clients:], 1))  # and warm
                first[way].append(server.started + time.perf_counter() - begun)
                begun = time.perf_counter()
                told = asyncio.run(_crowd(server, trial, clients, trial.pictures, 2))
                seconds[way].append(time.perf_counter() - begun)
            texts.setdefault(way, told)
            print(f"{trial.name} {way} round {number + 1}: {seconds[way][-1]:.2f} s", file=sys.stderr)
    answers = 2 * clients
    pairs = zip(*(chain.from_iterable(told) for told in texts.values()), strict=True)
    times = {way: statistics.median(taken) for way, taken in seconds.items()}
    return {
        "ratio": times["transformers"] / times["ours"],
        "clients": clients,
        "answers": answers,
        "most": trial.most,
        "answers_per_second": {way: answers / time for way, time in times.items()},
        "same_answers": sum(a == b for a, b in pairs) / answers,
        "seconds": seconds,
        "seconds_from_start_to_first_answer": first,
    }


async def _crowd(server: Server, trial: Trial, clients: int, pictures: Sequence[Path], turns: int) -> Texts:
    async def one(number: int) -> list[str]:
        async with Client(server) as client:
            messages = [asked(FIRST, pictures[number])]
            answers = [(await client.ask(messages, trial.most)).text]
            for _ in range(turns - 1):
                messages = followed(messages, answers[-1], SECOND)
                answers.append((await client.ask(messages, trial.most)).text)
            return answers

    return list(await asyncio.gather(*(one(number) for number in range(clients))))
