"""`vistune train --dry-run`: every stage's plan, from configurations and data alone."""

from __future__ import annotations

from pathlib import Path

import torch

from vistune.data.corpus import load_corpus
from vistune.progress import show
from vistune.recipe import Recipe
from vistune.train.check import CACHE, check_data, check_model, check_size, settle
from vistune.train.loop import check_out
from vistune.train.plan.dry_run import plan_stage
from vistune.train.stage_run import PRECISION


def plan_run(recipe: Recipe, data: Path, images: Path, out: Path, devices: int | None) -> None:
    """Print what each stage would do. Nothing is trained; prepared data is kept in ``out`` for the run.

    Args:
        devices: how many to estimate for; None: as many as there are.

    Raises:
        VistuneError: what a run would refuse.
    """
    here = torch.cuda.device_count()
    room = torch.cuda.get_device_properties(0).total_memory if here else None
    count = devices or max(1, here)
    check_data(recipe.stages.values(), data, images)
    check_out(recipe, data, images, out)
    recipe = settle(recipe)
    outlined = check_model(recipe)
    model = outlined.sketch()
    for name, stage in recipe.stages.items():
        corpus = load_corpus(
            stage,
            data,
            images,
            outlined.renderer(recipe.template_of(name)),
            recipe.model.max_length,
            recipe.seed,
            out / CACHE,
            recipe.model.picture,
        )
        check_size(name, len(corpus.selection), count)
        plan = plan_stage(
            name,
            recipe,
            corpus,
            model,
            outlined.tokenizer,
            outlined.image_token,
            PRECISION[recipe.precision],
            count,
            room,
        )
        for line in plan.lines():
            show(line)
