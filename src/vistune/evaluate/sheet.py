"""Answer sheets: files of answers, ours and the published ones, read and joined with their questions.

Read are JSON lines, or a JSON list of the same (ours: ``id``, ``answer``; LLaVA's and VQA's: ``question_id``,
``text`` or ``answer``; COCO's captions: ``image_id``, ``caption``; a judge's reviews: ``question_id``,
``content``), and ScienceQA's predictions file (``outputs`` and ``results`` by problem id).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vistune.errors import Problem, VistuneError
from vistune.question import Question

SETTINGS = "evaluation.json"  # lies beside answers.jsonl and says how they were made
NO_ANSWER = "no answer"
_IDS, _TEXTS = ("id", "question_id", "image_id"), ("answer", "text", "content", "caption")


@dataclass(frozen=True)
class Row:
    """One answer: ``raw`` is all that its file says of it."""

    id: str
    text: str
    place: str
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Sheet:
    """The answers of one file.

    Attributes:
        made: how they were made (:data:`SETTINGS`); empty where nobody wrote it down.
    """

    path: Path
    rows: list[Row]
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Joined:
    """A sheet whose rows answer questions, each once, in the questions' order.

    Attributes:
        missing: questions without an answer.
        problems: answers that were not counted, and questions that have none.
    """

    sheet: Sheet
    missing: list[Question]
    problems: list[Problem]


def read_sheet(path: Path) -> Sheet:
    """Read an answers file.

    Raises:
        VistuneError: it cannot be read, or a line is no answer; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise VistuneError(f"{path}: not UTF-8 text (byte {error.start + 1}).") from error
    whole = _whole(path, text)
    if isinstance(whole, dict):
        rows, made = _predictions(path, whole), whole.get("made") or _made(path)
    elif isinstance(whole, list):
        rows, made = [_row(f"{path}: [{number}]", raw) for number, raw in enumerate(whole)], _made(path)
    else:
        rows, made = list(_lines(path, text)), _made(path)
    if not rows:
        raise VistuneError(f"{path}: holds no answers.")
    return Sheet(path, rows, made)


def join(
    questions: Sequence[Question],
    sheet: Sheet,
    key: Callable[[Row], str | None] = lambda row: row.id,
) -> Joined:
    """Find each question's answer.

    Args:
        key: the id of the question that a row answers, or None where there is none; by default the row's own
            id. POPE, whose published ids differ, joins by picture and words.
    """
    problems: list[Problem] = []
    known = {question.id: question for question in questions}
    found: dict[str, Row] = {}
    torn: set[str] = set()
    for row in sheet.rows:
        name = key(row)
        if name is None or name not in known:
            problems.append(Problem(row.place, "answers no question of this benchmark", f"id {row.id}"))
        elif name in found and found[name].text == row.text:
            problems.append(Problem(row.place, "the same answer twice; counted once", f"id {row.id}"))
        elif name in found:
            torn.add(name)
            detail = f"id {row.id}; the other: {found[name].place}"
            problems.append(
                Problem(row.place, "two different answers to one question; neither counted", detail)
            )
        else:
            found[name] = replace(row, id=name)
    found = {name: row for name, row in found.items() if name not in torn}
    missing = [question for question in questions if question.id not in found]
    problems += [Problem(f"{sheet.path}: {q.id}", NO_ANSWER, q.text[:80]) for q in missing]
    rows = [found[question.id] for question in questions if question.id in found]
    return Joined(Sheet(sheet.path, rows, sheet.made), missing, problems)


def _whole(path: Path, text: str) -> dict[str, Any] | list[Any] | None:
    """The content of a file that is one list, or one object with predictions; None where it is lines."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))
    except ValueError:
        return None
    alone = isinstance(content, dict) and set(_IDS) & set(content)  # a file of one line
    return content if isinstance(content, (dict, list)) and not alone else None


def _once(path: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise VistuneError(f"{path}: {twice!r} stands there twice. Remove one of the two.")
    return content


def _predictions(path: Path, content: dict[str, Any]) -> list[Row]:
    results = content.get("results") or {}
    outputs = content.get("outputs", {} if results else content)
    if not isinstance(outputs, dict) or not isinstance(results, dict):
        raise VistuneError(f"{path}: expected `outputs` (and `results`) by problem id.")
    rows = []
    for name in dict.fromkeys([*outputs, *results]):
        text = outputs.get(name, "")
        if not isinstance(text, str):
            raise VistuneError(f"{path}: outputs[{name!r}]: expected text, found {text!r}.")
        rows.append(Row(str(name), text, f"{path}: {name}", {"index": results.get(name)}))
    return rows


def _lines(path: Path, text: str) -> Iterable[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise VistuneError(f"{place}: not JSON ({error}). Expected one answer a line.") from error
        yield _row(place, raw)


def _row(place: str, raw: Any) -> Row:
    name, answer = _first(raw, _IDS), _first(raw, _TEXTS)
    if name is None or not isinstance(answer, str):
        raise VistuneError(f"{place}: expected one of {', '.join(_IDS)}, and one of {', '.join(_TEXTS)}.")
    return Row(str(name), answer, place, raw)


def _first(raw: Any, names: Sequence[str]) -> Any:
    return next((raw[name] for name in names if name in raw), None) if isinstance(raw, dict) else None


def _made(path: Path) -> Mapping[str, Any]:
    settings = path.with_name(SETTINGS)
    if not settings.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VistuneError(f"{settings}: not JSON ({error}). Evaluate again, or remove it.") from error
    return content
