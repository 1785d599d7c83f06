"""Annotated images -> instruction data of three types, in LLaVA's JSON."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.conversation import Conversation, ask, gpt, human, to_json
from vistune.data.coco import AnnotatedImage, Annotations
from vistune.data.reply import parse_pairs, parse_prose
from vistune.data.teacher import SAMPLE_TYPES, SampleType, Teacher, TeacherRequest
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems
from vistune.folders import refuse_used
from vistune.progress import meter

ALIGNMENT = "alignment"  # stage 1: one record for each caption
_IN_FLIGHT = 64


@dataclass(frozen=True)
class Generated:
    """Where the data went and how much there is of it."""

    counts: dict[str, int]
    set_aside: dict[str, int]


def generate(annotations: Annotations, teacher: Teacher, out: Path, seed: int) -> Generated:
    """Write ``{conversation,detail,reasoning,alignment}.json``, ``set_aside.jsonl`` and ``provenance.json``.

    Raises:
        VistuneError: ``out`` already holds data, or no sample at all could be made.
    """
    refuse_used(out)
    out.mkdir(parents=True, exist_ok=True)
    problems = list(annotations.problems)
    samples = asyncio.run(_write_all(annotations.images, teacher, seed, problems))
    if not any(samples.values()):
        raise VistuneError(
            f"{out}: no sample could be made; see {problems[-1].place}: {problems[-1].reason}."
        )
    files: dict[str, list[Conversation]] = {ALIGNMENT: _alignment(annotations.images, seed)}
    files.update((str(kind), conversations) for kind, conversations in samples.items())
    for name, conversations in files.items():
        records = [to_json(conversation) for conversation in conversations]
        (out / f"{name}.json").write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    write_problems(out / "set_aside.jsonl", problems)
    result = Generated(
        {name: len(conversations) for name, conversations in files.items()}, count_by_reason(problems)
    )
    provenance = {
        "vistune": __version__,
        "teacher": teacher.name,
        "seed": seed,
        "images": len(annotations.images),
        "question_lists": {name: _sha256(_questions_text(name)) for name in ("detail", "brief")},
        "counts": result.counts,
        "set_aside": result.set_aside,
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return result


async def _write_all(
    images: Sequence[AnnotatedImage], teacher: Teacher, seed: int, problems: list[Problem]
) -> dict[SampleType, list[Conversation]]:
    """Every type for every image, in order; what does not parse becomes a problem."""
    slots = asyncio.Semaphore(_IN_FLIGHT)
    with meter("writing instruction data", len(images)) as progress:

        async def write(image: AnnotatedImage, kind: SampleType) -> Conversation | Problem:
            async with slots:
                return await _write_one(image, kind, teacher, seed)

        samples: dict[SampleType, list[Conversation]] = {kind: [] for kind in SAMPLE_TYPES}
        for start in range(0, len(images), _IN_FLIGHT):
            batch = images[start : start + _IN_FLIGHT]
            for kind in SAMPLE_TYPES:
                for result in await asyncio.gather(*(write(image, kind) for image in batch)):
                    if isinstance(result, Problem):
                        problems.append(result)
                    else:
                        samples[kind].append(result)
            for _ in batch:
                progress.advance()
    return samples


async def _write_one(
    image: AnnotatedImage, kind: SampleType, teacher: Teacher, seed: int
) -> Conversation | Problem:
    name = f"{image.id}-{kind}"
    rng = random.Random(f"generate/{seed}/{name}")
    context = image.context(with_boxes=kind in teacher.boxes_for)
    reply = await teacher.write(TeacherRequest(kind, context, f"{seed}/{image.id}"))
    try:
        if kind == "detail":
            pairs = [(rng.choice(question_list("detail")), parse_prose(reply))]
        else:
            pairs = parse_pairs(reply)
        conversation = _conversation(name, image.file, pairs)
        to_json(conversation)
    except ValueError as error:
        return Problem(name, "reply does not follow the format", f"{error}: {reply[:200]!r}")
    return conversation


def _conversation(name: str, file: str, pairs: Sequence[tuple[str, str]]) -> Conversation:
    """The picture stands before the first question."""
    turns = []
    for number, (question, answer) in enumerate(pairs):
        turns += [human(*ask(question, None if number else file)), gpt(answer)]
    return Conversation(name, tuple(turns))


def _alignment(images: Sequence[AnnotatedImage], seed: int) -> list[Conversation]:
    """Stage 1's pairs: each caption answers a brief-description question (paper Table 11)."""
    rng = random.Random(f"alignment/{seed}")
    questions = question_list("brief")
    return [
        _conversation(f"{image.id}-caption-{number}", image.file, [(rng.choice(questions), caption)])
        for image in images
        for number, caption in enumerate(image.captions)
    ]


def question_list(name: str) -> list[str]:
    """The questions of ``prompts/{name}_questions.txt``, one a line."""
    return [line for line in _questions_text(name).splitlines() if line.strip()]


def _questions_text(name: str) -> str:
    return resources.files("vistune.prompts").joinpath(f"{name}_questions.txt").read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_provenance(folder: Path) -> dict[str, Any]:
    """What :func:`generate` recorded about the data in ``folder``."""
    record: dict[str, Any] = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    return record
