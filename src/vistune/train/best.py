"""The best checkpoint of a stage, and when to stop: both follow from the evaluations so far."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vistune.progress import say

BEST, _BEFORE, _NEW, _ROW = "best", "best.before", "best.new", "validation.json"


@dataclass(frozen=True)
class HeldOutRow:
    """One evaluation.

    Attributes:
        step: optimizer steps that were taken before it.
        loss: mean over the held-out records' supervised tokens.
        accuracy: share of the held-out questions that were answered exactly; None if there are none.
        seconds: the evaluation took.
    """

    step: int
    loss: float
    accuracy: float | None = None
    questions: int = 0
    seconds: float = 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """The larger, the better: by accuracy where there are questions, then by loss."""
        loss = -self.loss if math.isfinite(self.loss) else -math.inf
        return (self.accuracy if self.accuracy is not None else 0.0, loss)

    @property
    def scalars(self) -> dict[str, float]:
        """The row by the names that trackers show."""
        answers = {"held_out/accuracy": self.accuracy} if self.accuracy is not None else {}
        return {"held_out/loss": self.loss, **answers}


def best_of(rows: Sequence[HeldOutRow]) -> HeldOutRow | None:
    """Return the best evaluation; of equal ones the first."""
    return max(rows, key=lambda row: row.rank, default=None)


def without_gain(rows: Sequence[HeldOutRow]) -> int:
    """Count the evaluations since the best one."""
    best = best_of(rows)
    return len(rows) - 1 - rows.index(best) if best else 0


class BestCheckpoint:
    """Keeps ``best/`` of a stage's folder; of several processes, the leader alone calls this.

    An interrupted run resumes from its last save and undoes what came later. So a best checkpoint from
    before that save is kept as ``best.before`` until another save makes it needless.
    """

    def __init__(self, stage: Path) -> None:
        self._stage = stage

    def resume(self, first: int, best: HeldOutRow | None) -> None:
        """Undo what came after step ``first``; ``best`` is the best evaluation until then."""
        self._remove(_NEW)
        if self._step(BEST) > first:
            self._remove(BEST)
            if self._step(_BEFORE) <= first:
                os.replace(self._stage / _BEFORE, self._stage / BEST)
        self._remove(_BEFORE)
        if best and self._step(BEST) != best.step:
            say(f"{self._stage / BEST}: that of step {best.step} was lost when the run was interrupted.")
            self._remove(BEST)

    def take(self, row: HeldOutRow, saved: int, save: Callable[[Path], None]) -> None:
        """Make what ``save`` writes into a folder the best checkpoint.

        Args:
            saved: the step from which an interrupted run would resume.
        """
        self._remove(_NEW)
        save(self._stage / _NEW)
        text = json.dumps(asdict(row), indent=2)
        (self._stage / _NEW / _ROW).write_text(text + "\n", encoding="utf-8")
        if self._step(BEST) <= saved:
            self._remove(_BEFORE)
            os.replace(self._stage / BEST, self._stage / _BEFORE)
        self._remove(BEST)
        os.replace(self._stage / _NEW, self._stage / BEST)

    def finish(self) -> None:
        """Remove what only an interrupted run would need."""
        self._remove(_BEFORE)

    def _remove(self, name: str) -> None:
        shutil.rmtree(self._stage / name, ignore_errors=True)

    def _step(self, name: str) -> float:
        """After which step it was saved; infinite if there is none."""
        try:
            return int(json.loads((self._stage / name / _ROW).read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, KeyError):
            return math.inf
