"""LLaVA-format files -> encoded samples, ready for batches."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.conversation import Conversation, from_json
from vistune.data.images import find_flaw
from vistune.errors import Problem, VistuneError
from vistune.template import Encoded, Renderer


@dataclass(frozen=True)
class Loaded:
    """What a stage trains on, and what had to be set aside."""

    samples: list[Encoded]
    problems: list[Problem]


def read_conversations(path: Path) -> tuple[list[Conversation], list[Problem]]:
    """Read one LLaVA-format JSON file; malformed records are set aside.

    Raises:
        VistuneError: the file is missing or is no JSON list.
    """
    conversations, problems = [], []
    for number, record in enumerate(_read_records(path)):
        try:
            conversations.append(from_json(record))
        except ValueError as error:
            problems.append(Problem(f"{path}: record {number}", "malformed record", str(error)))
    return conversations, problems


def load_samples(
    passes: Mapping[str, float], folder: Path, images: Path, renderer: Renderer, max_length: int, seed: int
) -> Loaded:
    """Read and encode a stage's files.

    Args:
        passes: file name -> how often each of its records is taken; the fraction is a random choice.
        folder: what the file names are relative to.
        images: the folder of pictures; a sample whose picture is missing or broken is set aside.
        max_length: a longer sample is set aside, never cut.

    Raises:
        VistuneError: a file cannot be read, or no sample is left.
    """
    samples: list[Encoded] = []
    problems: list[Problem] = []
    flaws: dict[str, Problem | None] = {}
    for name, count in passes.items():
        conversations, broken = read_conversations(folder / name)
        problems += broken
        rng = random.Random(f"passes/{seed}/{name}")
        for conversation in _repeat(conversations, count, rng):
            encoded = renderer.encode(conversation)
            problem = _flaw_of(conversation, encoded, images, max_length, flaws)
            if problem is None:
                samples.append(encoded)
            else:
                problems.append(problem)
    if not samples:
        first = f" First problem: {problems[0].place}: {problems[0].reason}." if problems else ""
        raise VistuneError(f"{folder}: no sample is left to train on in {', '.join(passes)}.{first}")
    return Loaded(samples, problems)


def _repeat(items: Sequence[Conversation], count: float, rng: random.Random) -> list[Conversation]:
    whole, part = int(count), count - int(count)
    return list(items) * whole + rng.sample(list(items), round(part * len(items)))


def _flaw_of(
    conversation: Conversation,
    encoded: Encoded,
    images: Path,
    max_length: int,
    flaws: dict[str, Problem | None],
) -> Problem | None:
    """Why this sample cannot be trained on. ``flaws`` remembers pictures that were looked at before."""
    if len(encoded.ids) > max_length:
        return Problem(conversation.id, "longer than max_length", f"{len(encoded.ids)} > {max_length} tokens")
    if encoded.supervised == 0:
        return Problem(conversation.id, "no token to learn from")
    for file in encoded.pictures:
        if file not in flaws:
            flaw = find_flaw(images / file)
            flaws[file] = Problem(file, flaw.reason, flaw.detail) if flaw else None
        if problem := flaws[file]:
            return problem
    return None


def _read_records(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the data folder.") from error
    except json.JSONDecodeError as error:
        raise VistuneError(f"{path}: line {error.lineno}: not valid JSON ({error.msg}).") from error
    if not isinstance(records, list):
        raise VistuneError(f"{path}: expected a list of records in LLaVA's format.")
    return records
