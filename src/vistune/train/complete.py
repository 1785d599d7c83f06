"""A save made complete: its stage's beginning with the trained weights of the save."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from vistune import __version__
from vistune.model.checkpoint import Checkpoint
from vistune.model.transfer import export_checkpoint, write_export
from vistune.recipe import Recipe, parse_recipe
from vistune.train.compute import PRECISION
from vistune.train.saves import RECORD, is_save, load_trained, read_record
from vistune.train.start import start


def describe(recipe: Recipe, stage: str, before: Path | None, saves: Path) -> dict[str, Any]:
    """Return what a save of ``stage`` remembers, so that :func:`load_save` can make it complete.

    Args:
        saves: the folder of the stage's saves; the run may be moved as a whole.
    """
    return {
        "vistune": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "stage": stage,
        "before": None if before is None else os.path.relpath(before, saves),
    }


def load_save(folder: Path) -> Checkpoint:
    """Load a save as the checkpoint that the stage would have written at that step.

    Raises:
        VistuneError: the save, or the beginning of its stage, cannot be read.
    """
    record = read_record(folder)
    recipe = parse_recipe(record["recipe"], str(folder / RECORD))
    before = record["before"]
    place = None if before is None else folder.parent / before
    checkpoint = start(recipe, record["stage"], place, whole=True)
    stage = recipe.stages[record["stage"]]
    checkpoint.model.set_trained(set(stage.trains))
    for parameter in checkpoint.model.parameters():
        if parameter.is_floating_point():
            trained = PRECISION[stage.optimizer.weights]
            parameter.data = parameter.data.to(trained if parameter.requires_grad else torch.float32)
    load_trained(folder, checkpoint.model)
    return checkpoint


def export(source: str, out: Path, dtype: str = "float16") -> Path:
    """Write a checkpoint, or a save made complete, by :func:`vistune.model.transfer.write_export`."""
    if is_save(Path(source)):
        return write_export(load_save(Path(source)), out, dtype)
    return export_checkpoint(source, out, dtype)
