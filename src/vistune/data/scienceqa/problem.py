"""One problem of ScienceQA, of the official ``problems.json`` or of the reduced form that scoring needs.

The reduced form has ``stem`` (question, context before it), ``choices``, ``answer``, ``has_image``,
``has_text``, ``grade`` and ``subject``; no hint, lecture, solution or file of a picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from vistune.data.text import excerpt

SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_GRADE = re.compile(r"grade([1-9]|1[0-2])")


@dataclass(frozen=True)
class ScienceProblem:
    """One question.

    Attributes:
        answer: index of the right choice.
        hint: the context; empty where there is none, or where it stands in ``question`` (reduced form).
        image: the picture's file below the folder of images; None where there is none.
        has_text: has a context, wherever it stands.
        subject: NAT, SOC or LAN.
        grade: 1 to 12.
        split: train, val or test; empty where nobody says.
        reduced: has no lecture and no solution because its file leaves them out.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    hint: str
    image: str | None
    has_text: bool
    subject: str
    grade: int
    lecture: str = ""
    solution: str = ""
    split: str = ""
    reduced: bool = False

    @property
    def letter(self) -> str:
        """Of the right choice."""
        return ascii_uppercase[self.answer]


def to_problem(name: str, row: Any, home: str = "") -> ScienceProblem:
    """Read one problem.

    Args:
        name: its id.
        home: the split that lists it, where it does not say so itself.

    Raises:
        ValueError: a field is missing or wrong; the message says which.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {excerpt(row)}")
    reduced = "stem" in row and "question" not in row
    choices = _choices(row.get("choices"))
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(
            f"`answer`: expected an index of its {len(choices)} choices, found {excerpt(answer)}"
        )
    subject, grade = row.get("subject"), row.get("grade")
    if not isinstance(subject, str) or subject not in SUBJECTS:
        raise ValueError(f"`subject`: expected one of {', '.join(SUBJECTS)}, found {excerpt(subject)}")
    if not isinstance(grade, str) or not (match := _GRADE.fullmatch(grade)):
        raise ValueError(f"`grade`: expected grade1 to grade12, found {excerpt(grade)}")
    split = _text(row, "split", "") or home
    hint = "" if reduced else _text(row, "hint", "")
    return ScienceProblem(
        id=name,
        question=_text(row, "stem" if reduced else "question"),
        choices=choices,
        answer=answer,
        hint=hint,
        image=_image(name, row, split, reduced),
        has_text=_flag(row, "has_text") if reduced else bool(hint.strip()),
        subject=SUBJECTS[subject],
        grade=int(match[1]),
        lecture=_text(row, "lecture", ""),
        solution=_text(row, "solution", ""),
        split=split,
        reduced=reduced,
    )


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise ValueError(f"`choices`: expected a list of texts, found {excerpt(value)}")
    if not 2 <= len(value) <= len(ascii_uppercase):
        raise ValueError(f"`choices`: expected 2 to {len(ascii_uppercase)}, found {len(value)}")
    for choice in value:
        _refuse_half_characters("choices", choice)
    return tuple(value)


def _image(name: str, row: Mapping[str, Any], split: str, reduced: bool) -> str | None:
    """``SPLIT/ID/FILE``, as the official archive has it; ``ID/FILE`` where the split is not known."""
    if reduced and not _flag(row, "has_image"):
        return None
    file = "image.png" if reduced else _text(row, "image", "")
    if not file:
        return None
    return "/".join(part for part in (split, name, file) if part)


def _text(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise ValueError(f"`{key}`: expected text, found {excerpt(value)}")
    _refuse_half_characters(key, value)
    return value


def _flag(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    if not isinstance(value, bool):
        raise ValueError(f"`{key}`: expected true or false, found {excerpt(value)}")
    return value


def _refuse_half_characters(key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"`{key}`: text is not valid Unicode: {text[error.start]!r}") from error
