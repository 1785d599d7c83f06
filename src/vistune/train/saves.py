"""What a stage needs to go on: saved every so many steps, each save whole or not at all.

A save, ``saves/step-000500/``, holds a complete checkpoint and, beside it, the trainer's state: trained
weights in full precision and the optimizer's moments, in torch's distributed format, which any number of
processes can read. Order and randomness follow from the step's number.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from vistune.errors import VistuneError
from vistune.model.llava import Llava
from vistune.train.parallel import Team

_EXTRA = "extra.json"
_NAME = re.compile(r"step-(\d+)")
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class Saves:
    """The saves of one stage.

    Args:
        folder: where they are.
        keep: how many there may be; the oldest go.
    """

    def __init__(self, folder: Path, keep: int, team: Team) -> None:
        self._folder, self._keep, self._team = folder, keep, team

    def latest(self) -> int:
        """The step that comes next; 0 where nothing was saved."""
        return max(self._steps(), default=0)

    def save(
        self,
        step: int,
        model: Llava,
        optimizer: torch.optim.Optimizer,
        checkpoint: Callable[[Path], None],
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Save that ``step`` comes next. All processes call this.

        Args:
            checkpoint: writes a complete checkpoint into the folder that it is given.
            extra: what :meth:`load` is to return.

        Raises:
            VistuneError: it cannot be written; the save before is still there.
        """
        part, target = self._folder / "part", self._folder / f"step-{step:06d}"
        if self._team.leads:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            (part / _EXTRA).write_text(json.dumps(extra or {}) + "\n", encoding="utf-8")
        self._team.wait()
        try:
            checkpoint(part / "checkpoint")
            _quietly(lambda: dcp.save(_state(model, optimizer), checkpoint_id=part / "state"))
        except (OSError, dcp.api.CheckpointException) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise VistuneError(
                f"{target}: cannot be written ({_cause(error)}). The save before it is whole; make room, or "
                "lower `run.keep`, and run the same command again."
            ) from error
        self._team.wait()
        if self._team.leads:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            for old in sorted(self._steps())[: -self._keep]:
                shutil.rmtree(self._folder / f"step-{old:06d}")
        self._team.wait()

    def load(self, step: int, model: Llava, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Go back to where ``step`` came next; return the save's ``extra``."""
        state = _state(model, optimizer)
        folder = self._folder / f"step-{step:06d}" / "state"
        try:
            _quietly(lambda: dcp.load(state, checkpoint_id=folder))
        except (OSError, dcp.api.CheckpointException) as error:
            raise VistuneError(
                f"{folder}: cannot be read ({_cause(error)}). Remove {folder.parent} to go on from the save "
                "before it, or from the stage's beginning."
            ) from error
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_TRAINED,
        )
        extra: dict[str, Any] = json.loads((folder.parent / _EXTRA).read_text(encoding="utf-8"))
        return extra

    def finish(self) -> None:
        """The stage's own checkpoint is written: it is the latest save, and the state is not needed."""
        if not self._team.leads or not self._folder.is_dir():
            return
        steps = sorted(self._steps())
        for step in steps[: len(steps) - self._keep + 1]:
            shutil.rmtree(self._folder / f"step-{step:06d}")
        for left in self._folder.glob("step-*/state"):
            shutil.rmtree(left)
        shutil.rmtree(self._folder / "part", ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [int(match[1]) for match in found if match]


def _state(model: Llava, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=_TRAINED)
    return {"model": weights, "optimizer": moments}


def _quietly(work: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        # One process needs no process group, and torch says that it assumes so.
        warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavailable).*")
        work()


def _cause(error: BaseException) -> str:
    """The system's own words, where a library has wrapped them."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return str(getattr(error, "strerror", None) or error)
