"""The second turn on the same picture, with the prefix cache and without it: time to the first words."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from vistune.conversation import Conversation, Turn, ask, gpt, human
from vistune.data.images import open_image
from vistune.serve.engine.built_in import BuiltIn, BuiltInOptions
from vistune.serve.engine.engine import ChatRequest, Sampling, Usage

from .trial import Trial

FIRST, SECOND = "What is in the picture?", "Where is it, and what is next to it?"
_PICTURE = "picture"


def measure(trial: Trial, rounds: int) -> dict[str, Any]:
    """Engines in a process of their own; a picture, and so a conversation, is new in each round."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as process:  # this one's threads would be in their way
        return process.submit(_run, trial.name, trial.folder, trial.pictures, trial.most, rounds).result()


def _run(name: str, folder: Path, pictures: Sequence[Path], most: int, rounds: int) -> dict[str, Any]:
    engines = {
        "cache": BuiltIn.load("cache", str(folder)),
        "none": BuiltIn.load("none", str(folder), BuiltInOptions(cache=0)),
    }
    return asyncio.run(_measure(engines, name, pictures, most, rounds))


async def _measure(
    engines: dict[str, BuiltIn], name: str, pictures: Sequence[Path], most: int, rounds: int
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {way: [] for way in engines}
    cached: list[int] = []
    same = 0
    try:
        for number in range(rounds + 1):
            picture = open_image(pictures[number % len(pictures)])
            order = list(engines) if number % 2 else list(engines)[::-1]
            told = {way: await _turns(engines[way], picture, most) for way in order}
            if number == 0:  # to warm up
                continue
            same += told["cache"][1] == told["none"][1]
            for way, (taken, _, usage) in told.items():
                seconds[way].append(taken)
                if way == "cache":
                    cached.append(usage.cached)
                elif usage.cached:
                    sys.exit(f"{name}: an engine without a cache found {usage.cached} tokens in it.")
    finally:
        for engine in engines.values():
            await engine.close()
    if min(cached) < engines["cache"].checkpoint.model.vision.patches:
        sys.exit(f"{name}: the second turn read its picture again ({min(cached)} tokens were kept).")
    times = {way: statistics.median(taken) for way, taken in seconds.items()}
    return {
        "ratio": times["cache"] / times["none"],
        "seconds": times,
        "rounds": rounds,
        "same_answers": same / rounds,
        "prompt_tokens": usage.prompt,
        "tokens_not_read_again": statistics.median(cached),
        "all_seconds": seconds,
    }


async def _turns(engine: BuiltIn, picture: Image.Image, most: int) -> tuple[float, list[Any], Usage]:
    """Two turns -> seconds to the second one's first words; both answers and their tokens; its usage."""
    question = human(*ask(FIRST, _PICTURE))
    _, first, before = await _answer(engine, [question], picture, most)
    second = [question, gpt(first), human(SECOND)]
    taken, answer, usage = await _answer(engine, second, picture, most)
    return taken, [first, before.completion, answer, usage.completion], usage


async def _answer(
    engine: BuiltIn, turns: Sequence[Turn], picture: Image.Image, most: int
) -> tuple[float, str, Usage]:
    asked = ChatRequest(Conversation("chat", tuple(turns)), {_PICTURE: picture}, Sampling(max_tokens=most))
    begun, first, text, usage = time.perf_counter(), None, "", None
    async for piece in engine.answer(asked):
        first = first or time.perf_counter()
        text += piece.text
        usage = piece.usage or usage
    assert first is not None and usage is not None
    return first - begun, text, usage
