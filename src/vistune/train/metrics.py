"""What a run measures, step by step: ``metrics.jsonl``, and what trackers show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vistune.errors import VistuneError
from vistune.train.trackers import Trackers


@dataclass(frozen=True)
class StepRow:
    """One optimizer step.

    Attributes:
        step: counts from 0.
        loss: mean over the step's supervised tokens.
        learning_rate: of each trained part.
        tokens: computed, pictures' included; a shared prefix counts once.
        supervised: tokens that are trained on.
        seconds: the step took, ``waited`` included.
        waited: seconds of it for data.
    """

    step: int
    loss: float
    learning_rate: Mapping[str, float]
    gradient_norm: float
    tokens: int
    supervised: int
    samples: int
    seconds: float
    waited: float


class MetricsLog:
    """Writes one JSON line a step, at once, so that a run that is killed has told all that it did.

    Args:
        path: ``metrics.jsonl``; rows of an earlier run are kept up to ``keep_below``.
        keep_below: the step that comes next; rows from it on were undone and are dropped.
        trackers: shown the same figures; closed with the log.

    Raises:
        VistuneError: a kept line is not a row.
    """

    def __init__(self, path: Path, keep_below: int = 0, trackers: Trackers | None = None) -> None:
        kept = [row for row in read_metrics(path) if row["step"] < keep_below] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        part.replace(path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._trackers = trackers

    def write(self, row: StepRow, **more: float) -> None:
        """Add a step; ``more`` are figures for trackers alone, which are not worth a line on disk."""
        self._file.write(_line(asdict(row)))
        self._file.flush()
        self.show(row.step, {**_scalars(row), **more})

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add figures for trackers alone."""
        if self._trackers:
            self._trackers.log(step, scalars)

    def close(self, failed: bool = False) -> None:
        self._file.close()
        if self._trackers:
            self._trackers.close(failed)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kind is not None)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line without an end was torn by a kill and is dropped.

    Raises:
        VistuneError: the file cannot be read, or a line is not a row.
    """
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the run's folder.") from error
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:  # JSON's error, and that of bytes which are not UTF-8
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise VistuneError(f"{path}: line {number}: not the row of a step. Remove the line, or the file.")
    return row


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _scalars(row: StepRow) -> dict[str, float]:
    """The row by the names that trackers show."""
    told = {"loss": row.loss, "gradient_norm": row.gradient_norm}
    told |= {f"learning_rate/{part}": rate for part, rate in row.learning_rate.items()}
    if row.seconds > 0:  # the clock may be coarser than a small step
        told |= {"tokens_per_second": row.tokens / row.seconds, "waiting": row.waited / row.seconds}
    return told
