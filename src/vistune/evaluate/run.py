"""One evaluation: answers with the picture, answers without it, and the scores of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.data.images import Flaw, UnusableImageError
from vistune.data.pictures import Pictures
from vistune.data.samples import read_conversations
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems
from vistune.evaluate.answer import MAX_NEW_TOKENS, Answer, Question, answer_all, questions_of
from vistune.evaluate.exact import accuracy, accuracy_by_kind
from vistune.folders import claim
from vistune.model.checkpoint import load_checkpoint


@dataclass(frozen=True)
class Evaluation:
    """Answers in the order of the questions, seeing and blind, and their scores."""

    answers: list[Answer]
    blind: list[Answer]
    scores: dict[str, Any]


def evaluate(
    checkpoint_name: str | Path, data: Path, images: Path, out: Path, limit: int | None = None
) -> Evaluation:
    """Ask the questions of ``data`` with and without their pictures; resumes where it was interrupted.

    Writes ``answers.jsonl``, ``answers_blind.jsonl``, ``set_aside.jsonl`` and ``scores.json`` into ``out``.

    Raises:
        VistuneError: ``out`` holds another evaluation, or no question is left.
    """
    conversations, problems = read_conversations(data)
    questions = _usable(questions_of(conversations), images, problems)[:limit]
    if not questions:
        raise VistuneError(f"{data}: no question about a usable picture is left.")
    settings = {"checkpoint": str(checkpoint_name), "data": str(data), "images": str(images), "limit": limit}
    claim(out, "evaluation.json", settings)
    checkpoint = load_checkpoint(checkpoint_name)
    answers = answer_all(checkpoint, questions, images, out / "answers.jsonl")
    blind = answer_all(checkpoint, questions, None, out / "answers_blind.jsonl")
    write_problems(out / "set_aside.jsonl", problems)
    scores = {
        "accuracy": asdict(accuracy(answers)),
        "accuracy_by_kind": {kind: asdict(value) for kind, value in accuracy_by_kind(answers).items()},
        "blind_accuracy": asdict(accuracy(blind)),
        "blind_accuracy_by_kind": {kind: asdict(value) for kind, value in accuracy_by_kind(blind).items()},
        "pictures": len({question.image for question in questions}),
        "set_aside": count_by_reason(problems),
        "template": checkpoint.recipe.template,
        "decoding": {"strategy": "greedy", "max_new_tokens": MAX_NEW_TOKENS},
        "vistune": __version__,
    }
    (out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return Evaluation(answers, blind, scores)


def _usable(questions: Sequence[Question], images: Path, problems: list[Problem]) -> list[Question]:
    """The questions whose picture can be decoded; the others' pictures become problems."""
    pictures = Pictures(images)
    flaws = {file: _flaw(pictures, file) for file in sorted({question.image for question in questions})}
    problems += [Problem(file, flaw.reason, flaw.detail) for file, flaw in flaws.items() if flaw]
    return [question for question in questions if not flaws[question.image]]


def _flaw(pictures: Pictures, file: str) -> Flaw | None:
    try:
        pictures.open(file)
    except UnusableImageError as error:
        return error.flaw
    return None
