"""What a check found: findings, their counts, and how they are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, TextIO, TypeAlias

from vistune.data.records import writing
from vistune.errors import Problem, VistuneError

Severity: TypeAlias = Literal["error", "warning"]
_WIDEST = 240  # characters of a finding's detail on the terminal


@dataclass(frozen=True)
class Finding:
    """A problem and how bad it is: a record with an error cannot be trained on."""

    severity: Severity
    problem: Problem


class Teller(Protocol):
    """Is told each finding as soon as it is made."""

    def __call__(self, finding: Finding, /) -> None: ...


@dataclass(frozen=True)
class CheckReport:
    """Counts over a whole file.

    Attributes:
        records: all that could be read.
        usable: records without an error.
        pictures: different pictures that were looked at; None where no folder of images was given.
        errors, warnings: reason -> how many findings, most frequent first.
    """

    data: str
    records: int
    usable: int
    pictures: int | None
    errors: dict[str, int]
    warnings: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.errors


def line_of(finding: Finding) -> str:
    """``data.json: line 12: error: the answer is empty (conversations[1])``."""
    problem = finding.problem
    detail = " ".join(problem.detail.split())
    if len(detail) > _WIDEST:
        detail = detail[:_WIDEST] + "…"
    return f"{problem.place}: {finding.severity}: {problem.reason}" + (f" ({detail})" if detail else "")


def summary_of(report: CheckReport) -> str:
    """Counts by reason, and the totals."""
    lines = [
        f"{count:>9,} x {severity}: {reason}"
        for severity, counts in (("error", report.errors), ("warning", report.warnings))
        for reason, count in counts.items()
    ]
    looked = "pictures not looked at (no --images)"
    if report.pictures is not None:
        looked = f"{report.pictures:,} pictures looked at"
    return "\n".join(
        [*lines, f"{report.data}: {report.records:,} records, {report.usable:,} without an error; {looked}"]
    )


class Printer:
    """Prints the first findings of each reason."""

    def __init__(self, most: int) -> None:
        self._most, self._told = most, Counter[str]()

    def __call__(self, finding: Finding) -> None:
        reason = finding.problem.reason
        self._told[reason] += 1
        if self._told[reason] <= self._most:
            print(line_of(finding), flush=True)

    @property
    def hidden(self) -> int:
        """How many findings were not printed."""
        return sum(max(0, count - self._most) for count in self._told.values())


class FindingsFile:
    """All findings, one a line of a JSON document that ends with the report."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._separator = file, "\n"
        self._file.write('{"findings": [')

    def __call__(self, finding: Finding) -> None:
        row = {"severity": finding.severity, **asdict(finding.problem)}
        self._file.write(self._separator + json.dumps(row))
        self._separator = ",\n"

    def finish(self, report: CheckReport) -> None:
        self._file.write(f'\n],\n"report": {json.dumps(asdict(report), indent=1)}}}\n')


@contextmanager
def findings_file(path: Path | None) -> Iterator[FindingsFile | None]:
    """The file of findings, or None where none is wanted."""
    if path is None:
        yield None
        return
    if path.exists():
        raise VistuneError(f"{path}: is there already. Choose another file, or remove it first.")
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise VistuneError(f"{path}: cannot be written ({error.strerror}).") from error
    try:
        with writing(path), file:
            yield FindingsFile(file)
    except BaseException:
        path.unlink(missing_ok=True)  # half a list is no JSON, and would be in the way
        raise
