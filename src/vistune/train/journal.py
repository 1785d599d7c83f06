"""What a stage tells of each step: a row of metrics, and a note for the progress line."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import torch

from vistune.model.llava import Llava
from vistune.recipe import Recipe
from vistune.train.best import HeldOutRow
from vistune.train.flops import attended_pairs, model_flops, peak_flops
from vistune.train.loader import Prepared
from vistune.train.metrics import MetricsLog, StepRow
from vistune.train.optimizers import rates
from vistune.train.parallel import Team
from vistune.train.stage import StepResult
from vistune.train.throughput import Throughput
from vistune.train.trackers import Stage, Trackers


class Journal:
    """Writes ``metrics.jsonl`` (the leader alone) and measures the speed.

    Args:
        folder: the stage's.
        recipe: names the trackers, which are also told all of it.
        first: the step that comes next; later rows of an interrupted run are dropped.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, first: int, model: Llava, team: Team, precision: torch.dtype
    ) -> None:
        self._team, self._flops = team, model_flops(model)
        peak = peak_flops(team.device, precision)
        self._throughput = Throughput(peak * team.size if peak else None)
        self._log = _log(folder, recipe, first) if team.leads else None
        self._last = time.perf_counter()

    def resume(self) -> None:
        """What came between two steps, a save, is not the next one's time."""
        self._last = time.perf_counter()

    def note(
        self, step: int, result: StepResult, optimizer: torch.optim.Optimizer, prepared: Prepared
    ) -> str:
        """Write a finished step down; returns what to show of it."""
        now = time.perf_counter()
        row = StepRow(
            step,
            result.loss,
            rates(optimizer),
            result.gradient_norm,
            result.tokens,
            result.supervised,
            result.samples,
            round(now - self._last, 4),
            round(prepared.waited, 4),
        )
        self._last = now
        # Of this process, taken for all: the others' share is about as large.
        pairs = attended_pairs(tree for batch in prepared.batches for tree in batch.trees)
        self._throughput.add(row, self._flops.of_batches(prepared.batches, pairs) * self._team.size)
        if self._log:
            self._log.write(row)
        return self._throughput.note(self._team.device)

    def held_out(self, row: HeldOutRow | None) -> None:
        """Show an evaluation; its time is not the next step's."""
        if row is None:
            return
        if self._log:
            self._log.show(row.step - 1, row.scalars)
        self.resume()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log:
            self._log.close(kind is not None)


def _log(folder: Path, recipe: Recipe, first: int) -> MetricsLog:
    stage = Stage(folder, first, recipe.model_dump(mode="json"))
    trackers = Trackers(recipe.run.trackers, stage, asked="trackers" in recipe.run.model_fields_set)
    return MetricsLog(folder / "metrics.jsonl", first, trackers)
