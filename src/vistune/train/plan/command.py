"""`vistune train --dry-run`: every stage's plan, from configurations and data alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from vistune.data.corpus import load_corpus
from vistune.model.parts import read_tokenizer
from vistune.progress import console
from vistune.recipe import Recipe
from vistune.template import Renderer, find_template
from vistune.train.plan.dry_run import plan_stage
from vistune.train.plan.sketch import sketch
from vistune.train.stage_run import PRECISION

_IMAGE_TOKEN = -1  # no tokenizer's: it is only counted


def plan_run(recipe: Recipe, data: Path, images: Path, devices: int | None) -> None:
    """Print what each stage would do; nothing is trained and nothing is left behind.

    Args:
        devices: how many to estimate the memory for; None: as many as there are.
    """
    here = torch.cuda.device_count()
    room = torch.cuda.get_device_properties(0).total_memory if here else None
    model = sketch(recipe.model)
    tokenizer = read_tokenizer(recipe.model.start_from or recipe.model.llm or "")
    with tempfile.TemporaryDirectory(prefix="vistune-plan-") as cache:
        for name, stage in recipe.stages.items():
            template = find_template(recipe.template_of(name), tokenizer)
            renderer = Renderer(template, tokenizer, _IMAGE_TOKEN, model.vision.patches)
            corpus = load_corpus(
                stage,
                data,
                images,
                renderer,
                recipe.model.max_length,
                recipe.seed,
                Path(cache),
                recipe.model.picture,
            )
            plan = plan_stage(
                name,
                recipe,
                corpus,
                model,
                tokenizer,
                _IMAGE_TOKEN,
                PRECISION[recipe.precision],
                devices or max(1, here),
                room,
            )
            for line in plan.lines():
                console.print(line, markup=False, soft_wrap=True)
