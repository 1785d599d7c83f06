"""A run: stage after stage, with metrics and saves on the way and a complete checkpoint at each end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vistune.errors import VistuneError
from vistune.progress import say
from vistune.recipe import Recipe, StageRecipe
from vistune.train import record
from vistune.train.check import check_data, check_model, settle
from vistune.train.metrics import read_metrics
from vistune.train.optimizers import check_optimizer
from vistune.train.parallel import assemble
from vistune.train.stage_run import Place, StageRun


def train(recipe: Recipe, data: Path, images: Path, out: Path) -> Path:
    """Run every stage of ``recipe``; a run that was interrupted goes on from its last save.

    A stage writes ``out/NAME/``: ``metrics.jsonl``, ``set_aside.jsonl``, ``saves/`` while it runs, and
    ``checkpoint/``. A resumed run equals an uninterrupted one. Under ``torchrun``, every process calls this.

    Returns:
        The folder of the last stage's checkpoint.

    Raises:
        VistuneError: ``out`` holds a run of another recipe, or a stage cannot run.
    """
    place, given = Place(data, images, out), recipe
    finished = {name for name in recipe.stages if (out / name / "checkpoint").is_dir()}
    check_data((stage for name, stage in recipe.stages.items() if name not in finished), data, images)
    recipe = settle(recipe)
    if next(iter(recipe.stages)) not in finished:
        check_model(recipe)
    with assemble(grouped=recipe.precision != "float32") as team, ExitStack() as stack:
        for stage in recipe.stages.values():
            check_optimizer(stage.optimizer, team.device, team.size)
            _refuse_shared_quantised(stage, team.size)
        with team.leader_first():
            if team.leads:
                stack.enter_context(record.begun(given, data, images, out, team))
        folder: Path | None = None
        for number, name in enumerate(recipe.stages, 1):
            target = out / name / "checkpoint"
            if target.is_dir():
                say(f"stage {number} ({name}): already finished")
            else:
                if team.leads:
                    record.note_stage(out, name)
                seconds = StageRun(number, name, recipe, place, team, folder).run()
                if team.leads:
                    record.note_stage(out, name, seconds)
            folder = target
    assert folder is not None  # a recipe has at least one stage
    return folder


def _refuse_shared_quantised(stage: StageRecipe, processes: int) -> None:
    if processes > 1 and stage.lora and stage.lora.quantise:
        raise VistuneError(
            f"lora.quantise: {stage.lora.quantise} works with one process, not with {processes}: weights in "
            "4 bits cannot be spread. Leave `quantise` out, or start the run without torchrun."
        )


def read_all_metrics(out: Path, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The logged steps of each stage that has begun."""
    files = {name: out / name / "metrics.jsonl" for name in recipe.stages}
    return {name: read_metrics(file) for name, file in files.items() if file.exists()}
