"""What is judged: each question with its context, its reference and the candidate's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vistune.errors import Problem, VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.llava_bench import LlavaBench
from vistune.evaluate.judge.context import read_contexts
from vistune.evaluate.sheet import Joined, Row, join, read_sheet
from vistune.question import Question, Questions


@dataclass(frozen=True)
class Case:
    """One question to judge."""

    question: Question
    context: str
    reference: Row
    candidate: Row


@dataclass(frozen=True)
class Cases:
    """All that can be judged, in the questions' order, and what of the files could not be used."""

    cases: list[Case]
    questions: Questions
    problems: list[Problem]


def load_cases(bench: LlavaBench, data: Path, context: Path, references: Path, answers: Path) -> Cases:
    """Read the four files and join them by question id and picture.

    An empty answer is judged like any other; a question that lacks something is set aside.

    Raises:
        VistuneError: a file cannot be read, or no question has all that it takes.
    """
    questions, contexts = bench.load(BenchFiles(data=data)), read_contexts(context)
    judged = _join(bench, questions.questions, answers)
    compared = _join(bench, questions.questions, references)
    problems = [*questions.problems, *contexts.problems, *judged.problems, *compared.problems]
    candidate = {row.id: row for row in judged.sheet.rows}
    reference = {row.id: row for row in compared.sheet.rows}
    cases = []
    for question in questions.questions:
        known = contexts.by_image.get(question.image or "")
        mine, other = candidate.get(question.id), reference.get(question.id)
        if known is None:
            problems.append(Problem(question.id, "no context of its picture", str(question.image)))
        elif other is not None and not other.text.strip():
            problems.append(Problem(other.place, "an empty reference", f"question {question.id}"))
        elif mine is not None and other is not None:
            if not mine.text.strip():
                problems.append(Problem(mine.place, "an empty answer; judged as one", f"id {question.id}"))
            cases.append(Case(question, known, other, mine))
    if not cases:
        first = problems[0]
        raise VistuneError(
            f"{answers}: no question of {data} has an answer here, a reference in {references} and a context "
            f"in {context}. The first problem: {first.place}: {first.reason} ({first.detail})."
        )
    return Cases(cases, questions, problems)


def _join(bench: LlavaBench, questions: Sequence[Question], path: Path) -> Joined:
    sheet = read_sheet(path)
    if reviews := [row for row in sheet.rows if "content" in row.raw]:
        raise VistuneError(
            f"{reviews[0].place}: a review, not an answer. Give the file of answers; reviews are scored with "
            f"`vistune score {bench.name}`."
        )
    return join(questions, sheet, partial(bench.key, questions))
