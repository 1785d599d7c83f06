"""What a user is told when something is wrong: an exception for what stops a run, a record for the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


class VistuneError(Exception):
    """A problem the user can mend. The message names the place, what was found, and the remedy."""


@dataclass(frozen=True)
class Problem:
    """One piece of input that was set aside, and why."""

    place: str  # a file and line, an image's name, a record's id
    reason: str  # a fixed phrase, so that problems can be counted by it
    detail: str = ""


def count_by_reason(problems: Iterable[Problem]) -> dict[str, int]:
    """How often each reason occurs, most frequent first."""
    return dict(Counter(problem.reason for problem in problems).most_common())


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write one JSON line for each problem; the file is there even when it is empty."""
    with open(path, "w", encoding="utf-8") as file:
        for problem in problems:
            file.write(json.dumps(asdict(problem), ensure_ascii=False) + "\n")
