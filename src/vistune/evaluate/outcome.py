"""What scoring made of each answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vistune.errors import VistuneError
from vistune.lines import read_lines


@dataclass(frozen=True)
class Outcome:
    """One question, its answer, and what it adds to each measure.

    Attributes:
        read: what scoring understood of the answer (a letter, yes, two scores); None where nothing could be.
        sums: for each measure that counts the question, what it adds to numerator and denominator.
        right: whether it counts as right, where a question is right or wrong.
        note: why nothing could be read, or what else a reader should know.
    """

    id: str
    question: str
    answer: str
    sums: Mapping[str, tuple[float, float]]
    image: str | None = None
    references: tuple[str, ...] = ()
    kind: str = ""
    read: str | None = None
    right: bool | None = None
    note: str = ""


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """One JSON line for each."""
    with open(path, "w", encoding="utf-8") as file:
        for outcome in outcomes:
            file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")


def read_outcomes(path: Path) -> list[Outcome]:
    """What :func:`write_outcomes` wrote.

    Raises:
        VistuneError: the file cannot be read; or a line is no outcome, which is named.
    """
    outcomes = []
    for number, line in read_lines(path):
        try:
            outcomes.append(_outcome(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise VistuneError(
                f"{path}: line {number}: not what scoring writes "
                f"({type(error).__name__}: {error}). Score again."
            ) from error
    return outcomes


def _outcome(row: dict[str, object]) -> Outcome:
    sums = {name: tuple(pair) for name, pair in row["sums"].items()}  # type: ignore[attr-defined]
    return Outcome(**{**row, "sums": sums, "references": tuple(row["references"])})  # type: ignore[arg-type]
