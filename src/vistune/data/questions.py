"""Files of questions with their answers, and exact match.

Read are LLaVA's format, whose every question is asked alone, and records of ``question``, ``answer`` or
``answers``, and optionally ``image``, ``id``, ``kind`` (or ``category``) and ``options``; as a JSON list,
JSON lines or Parquet, told by the file's ending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER, from_json, questions_and_answers
from vistune.data.records import Record, read_records
from vistune.data.teachers.scripted import kind_of_question
from vistune.errors import Problem, VistuneError
from vistune.exact import exact_match
from vistune.question import Question, Questions

ALL = "all"
MOST = 48  # new tokens of an answer at most
_OTHER = "other"


def read_questions(path: Path) -> Questions:
    """Read a file's questions; malformed records are set aside.

    Raises:
        VistuneError: the file cannot be read, two questions have one id, or no question is left.
    """
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    problems: list[Problem] = []
    for record in read_records(path):
        for item in [record] if isinstance(record, Problem) else _asked(record):
            if isinstance(item, Problem):
                problems.append(item)
            elif item.id in questions:
                raise VistuneError(
                    f"{record.place}: the id {item.id!r} is taken by {places[item.id]}. "
                    "Give every record an id of its own."
                )
            else:
                questions[item.id], places[item.id] = item, record.place
    if not questions:
        first = (f"{p.place}: {p.reason} ({p.detail})." for p in problems)
        raise VistuneError(f"{path}: holds no question. {next(first, '')}".rstrip())
    return Questions(list(questions.values()), problems)


def is_right(question: Question, answer: str) -> bool:
    """Whether an answer matches any of the references exactly."""
    accepted = question.details.get("accepted", question.references)
    return any(exact_match(answer, form) for form in accepted)


def _asked(record: Record) -> list[Question] | list[Problem]:
    """What a record asks, or why nothing can be asked."""
    value = record.value
    number = record.place.split()[-1]  # of the line, or of the record where a line may hold many
    try:
        if isinstance(value, dict) and "conversations" in value:
            return _turns(value, number)
        return [_single(value, number)]
    except ValueError as error:
        return [Problem(record.place, "malformed record", str(error))]


def _turns(value: Mapping[str, Any], number: str) -> list[Question]:
    conversation = from_json(value)
    if len(conversation.pictures) > 1:
        raise ValueError(f"{len(conversation.pictures)} pictures; a question is asked about one at most")
    image = next(iter(conversation.pictures), None)
    name = conversation.id or number
    return [
        Question(f"{name}-{turn}", question, image, (answer,), _kind_of(question))
        for turn, (question, answer) in enumerate(questions_and_answers(conversation))
    ]


def _kind_of(question: str) -> str:
    return kind_of_question(question) or _OTHER


def _single(value: Any, number: str) -> Question:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    text = _text(value, "question")
    if text is None:
        raise ValueError("expected `question`, or `conversations` in LLaVA's format")
    if IMAGE_PLACEHOLDER in text:
        raise ValueError(f"`question`: leave `{IMAGE_PLACEHOLDER}` out; the picture is that of `image`")
    kind = _text(value, "kind") or _text(value, "category") or _kind_of(text)
    if kind == ALL:
        raise ValueError(f"`{ALL}` cannot be a kind: it is the score over all kinds")
    references = tuple(dict.fromkeys([*_texts(value, "answer"), *_texts(value, "answers")]))
    if not references:
        raise ValueError("expected `answer` or `answers`")
    name, options = _text(value, "id") or number, _texts(value, "options")
    question = Question(name, text, _text(value, "image"), references, kind)
    return _with_options(question, options) if options else question


def _with_options(question: Question, options: Sequence[str]) -> Question:
    """The same question with lettered options below; the right ones may be named in several ways."""
    if len(options) > len(ascii_uppercase):
        raise ValueError(f"{len(options)} options; there are letters for {len(ascii_uppercase)}")
    lettered = list(zip(ascii_uppercase, options, strict=False))
    lines = [f"({letter}) {option}" for letter, option in lettered]
    chosen = [_choice(reference, lettered) for reference in question.references]
    return replace(
        question,
        text="\n".join([question.text, "Options:", *lines]),
        references=tuple(f"({letter}) {option}" for letter, option in chosen),
        details={"accepted": tuple(form for pair in chosen for form in _forms(*pair))},
    )


def _choice(answer: str, lettered: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The option that ``answer`` names, by its text or else by its letter."""
    for part in (1, 0):
        for pair in lettered:
            if exact_match(answer, pair[part]):
                return pair
    raise ValueError(f"the answer {answer!r} is none of the options")


def _forms(letter: str, option: str) -> tuple[str, ...]:
    """The ways to name an option."""
    together = [f"{mark} {option}" for mark in (f"({letter})", f"{letter})", f"{letter}.", f"{letter}:")]
    return (letter, f"({letter})", option, *together)


def _text(value: Mapping[str, Any], field: str) -> str | None:
    """A field's text; None where it is left out or null."""
    found = value.get(field)
    return None if found is None else _checked(found, field)


def _texts(value: Mapping[str, Any], field: str) -> list[str]:
    """A field's texts: one, or a list of them."""
    found = value.get(field)
    if found is None:
        return []
    return [_checked(item, field) for item in (found if isinstance(found, list) else [found])]


def _checked(found: Any, field: str) -> str:
    """Text, or a number as text."""
    text = str(found) if isinstance(found, int | float) and not isinstance(found, bool) else found
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"`{field}`: expected text, found {found!r}")
    return text
