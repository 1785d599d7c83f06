"""The files of VQA: its official questions and annotations, and LLaVA's lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vistune.data.json_stream import stream_lists
from vistune.data.text import excerpt
from vistune.errors import Problem, VistuneError
from vistune.evaluate.benches.rows import first_of, first_problem, id_of, json_lines, once
from vistune.question import Question, Questions

TEN = 10  # human answers for each question
_SIZES = {"train2014": 443_757, "val2014": 214_354, "test2015": 447_793, "test-dev2015": 107_394}  # VQAv2
_FOLDERS = {"test-dev2015": "test2015"}  # test-dev's pictures are some of test's


@dataclass(frozen=True)
class Annotation:
    """What people answered to one question; ``kind``: the answer's type, as annotated."""

    answers: tuple[str, ...]
    kind: str


def read_questions(path: Path) -> Questions:
    """Questions of an official file, or of JSON lines, which may hold their answers.

    Raises:
        VistuneError: the file cannot be read, is neither, or holds no question.
    """
    problems: list[Problem] = []
    official = _official_object(path)
    found = _of_object(path, official, problems) if official else _of_lines(path, problems)
    questions = list(once(found, "question", problems).values())
    if any(question.references for question in questions):
        problems += (_unanswered(question) for question in questions if not question.references)
        questions = [question for question in questions if question.references]
    if not questions:
        raise VistuneError(
            f"{path}: no question; expected VQA's `questions`, or lines of `question_id`, `image`, `text`."
            + first_problem(problems)
        )
    return Questions(questions, problems, _size(official) if official else None)


def annotate(questions: Questions, path: Path) -> Questions:
    """The questions with the annotations' answers and types; those without an annotation are set aside.

    Raises:
        VistuneError: the annotations cannot be read, are of other questions, or would override answers.
    """
    if any(question.references for question in questions.questions):
        raise VistuneError(
            f"{path}: would override the answers that stand beside the questions. Leave one out."
        )
    problems = list(questions.problems)
    annotations = once(_annotations(path, problems), "annotation", problems)
    known = {question.id: question for question in questions.questions}
    problems += (
        Problem(f"{path}: id {name}", "annotation of an unknown question")
        for name in annotations
        if name not in known
    )
    problems += (_unanswered(question) for name, question in known.items() if name not in annotations)
    both = [
        replace(question, references=annotations[name].answers, kind=annotations[name].kind)
        for name, question in known.items()
        if name in annotations
    ]
    if not both:
        raise VistuneError(f"{path}: annotates none of the questions. Pass the annotations of their split.")
    return Questions(both, problems, questions.official)


def _unanswered(question: Question) -> Problem:
    return Problem(question.id, "question without human answers", question.text[:80])


def _official_object(path: Path) -> dict[str, Any] | None:
    """The content of a file that is one JSON object with ``questions``; None where it may be lines."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("questions"), list) else None


def _size(content: dict[str, Any]) -> int | None:
    """How many questions VQAv2 has in this split; None for another data set in its format."""
    version = str((content.get("info") or {}).get("version", "2.0"))
    return _SIZES.get(str(content.get("data_subtype"))) if version == "2.0" else None


def _of_object(
    path: Path, content: dict[str, Any], problems: list[Problem]
) -> Iterator[tuple[str, str, Question]]:
    split = content.get("data_subtype")
    if not isinstance(split, str):
        raise VistuneError(f"{path}: expected `data_subtype`, e.g. val2014: the pictures' names hold it.")
    folder = _FOLDERS.get(split, split)
    for number, row in enumerate(content["questions"]):
        place = f"{path}: questions[{number}]"
        name, image, text = id_of(row), first_of(row, "image_id"), first_of(row, "question")
        if name is None or not isinstance(image, int) or not isinstance(text, str):
            reason = "no question of VQA (question_id, image_id, question)"
            problems.append(Problem(place, reason, excerpt(row)))
        else:
            yield place, name, Question(name, text, f"COCO_{folder}_{image:012d}.jpg")


def _of_lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, str, Question]]:
    for record in json_lines(path):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        row, place = record.value, record.place
        name, image, text = id_of(row), first_of(row, "image"), first_of(row, "text", "question")
        answers, kind = _answers(first_of(row, "answers", "answer")), first_of(row, "answer_type")
        if name is None or not isinstance(image, str) or not isinstance(text, str):
            problems.append(Problem(place, "no question (question_id, image, text)", excerpt(row)))
        elif answers is None:
            problems.append(Problem(place, "answers are not texts", f"id {name}"))
        else:
            yield place, name, Question(name, text, image, answers, kind if isinstance(kind, str) else "")


def _answers(value: Any) -> tuple[str, ...] | None:
    """Answers from a text, a list of texts or a list of objects; None where there is something else."""
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    texts = [first_of(item, "answer") if isinstance(item, dict) else item for item in listed]
    return tuple(texts) if all(isinstance(text, str) for text in texts) else None


def _annotations(path: Path, problems: list[Problem]) -> Iterator[tuple[str, str, Annotation]]:
    for item in stream_lists(path, ("annotations",), "VQA's annotations"):
        place, row = f"{path}: annotations[{item.number}]", item.value
        name, answers = id_of(row), _answers(first_of(row, "answers"))
        if name is None or answers is None:
            problems.append(Problem(place, "no annotation of VQA (question_id, answers)", excerpt(row)))
        elif len(answers) != TEN:
            detail = f"id {name} has {len(answers)}"
            problems.append(Problem(place, "annotation has not ten answers", detail))
        else:
            kind = first_of(row, "answer_type")
            yield place, name, Annotation(answers, kind if isinstance(kind, str) else "")
