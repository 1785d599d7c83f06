"""What the readers of published question files share: lines, ids, and each id once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vistune.data.records import Record
from vistune.data.text import excerpt, text_lines
from vistune.errors import Problem

T = TypeVar("T")


def json_lines(path: Path) -> Iterator[Record | Problem]:
    """The values of JSON lines, whatever the file's ending: published ones end in ``.json`` too.

    Raises:
        VistuneError: the file cannot be read.
    """
    for line in text_lines(path):
        if isinstance(line, Problem):
            yield line
        elif line.text.strip():
            try:
                yield Record(json.loads(line.text), line.place)
            except (ValueError, RecursionError) as error:
                yield Problem(line.place, "not valid JSON", f"{error}: {excerpt(line.text)}")


def first_problem(problems: Sequence[Problem]) -> str:
    """The first of them as a sentence that ends a message; empty where there is none."""
    return f" First problem: {problems[0].place}: {problems[0].reason}." if problems else ""


def first_of(row: Any, *names: str) -> Any:
    """The first of these fields that a row has; None where it has none or is no object."""
    return next((row[name] for name in names if name in row), None) if isinstance(row, dict) else None


def id_of(row: Any, *names: str) -> str | None:
    """A row's id as text: ids are numbers in one file and text in another."""
    value = first_of(row, *(names or ("question_id", "id")))
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def once(found: Iterable[tuple[str, str, T]], what: str, problems: list[Problem]) -> dict[str, T]:
    """Values by id; a repeated value counts once, and different values of one id are all set aside.

    Args:
        found: place, id and value.
        what: a value, in words.
    """
    kept: dict[str, tuple[str, T]] = {}
    torn: set[str] = set()
    for place, name, value in found:
        first, known = kept.setdefault(name, (place, value))
        if first == place:
            continue
        if known == value:
            problems.append(Problem(place, f"the same {what} twice; counted once", f"id {name}"))
        else:
            torn.add(name)
            detail = f"id {name}; the other: {first}"
            problems.append(Problem(place, f"two different {what}s of one id; none counted", detail))
    return {name: value for name, (_, value) in kept.items() if name not in torn}
