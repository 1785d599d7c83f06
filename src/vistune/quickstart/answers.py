"""The answers of a run, with the pictures and without them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vistune.evaluate.benches.own import ALL, OwnData
from vistune.evaluate.measure import Measure, measures
from vistune.evaluate.outcome import Outcome, read_outcomes


@dataclass(frozen=True)
class Answers:
    """What scoring made of one pass over the questions."""

    outcomes: list[Outcome]

    @cached_property
    def shares(self) -> dict[str, Measure]:
        """Right answers of each kind of question and of all, in percent; empty where there is no answer."""
        return measures(self.outcomes, OwnData().order(self.outcomes)) if self.outcomes else {}

    @property
    def by_kind(self) -> dict[str, Measure]:
        return {kind: share for kind, share in self.shares.items() if kind != ALL}


def read_answers(folder: Path) -> tuple[Answers, Answers]:
    """With the pictures and without; those that ``folder`` does not hold are empty."""
    paths = (folder / name for name in ("outcomes.jsonl", "outcomes_blind.jsonl"))
    seeing, blind = (Answers(read_outcomes(path) if path.exists() else []) for path in paths)
    return seeing, blind
