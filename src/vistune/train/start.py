"""What a stage starts with: one process reads the weights, the others know only their shapes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from vistune.model.adapters import add_adapters
from vistune.model.checkpoint import Checkpoint, join_parts, load_checkpoint
from vistune.model.exact import Exact
from vistune.model.hf import llava_state
from vistune.model.outline import outline
from vistune.recipe import ModelRecipe, Recipe


def start(recipe: Recipe, stage: str, before: Path | None, whole: bool) -> Checkpoint:
    """Return the model that ``stage`` starts with, its fresh adapters included.

    Args:
        before: the checkpoint of the stage before; None for the first.
        whole: read the weights, in the precision of their files, on the CPU. Otherwise they have no storage
            (they are on the meta device).
    """
    lora = recipe.stages[stage].lora
    quantise = lora.quantise if lora else None
    checkpoint = _read(recipe, stage, before, quantise) if whole else _sketched(recipe, stage, before)
    if lora:
        with nullcontext() if whole else torch.device("meta"):
            add_adapters(checkpoint.model.language_model, lora, recipe.seed)
    return checkpoint


def exact_weights(recipe: Recipe, stage: str, before: Path | None) -> Exact:
    """Return what finds the exact weights of the stage's beginning, without its adapters."""
    model = recipe.model
    first = (model.start_from,) if model.start_from is not None else (model.vision, model.llm)
    places = [place for place in ((before,) if before is not None else first) if place is not None]
    return Exact(places, lambda: llava_state(_read(recipe, stage, before, None).model))


def _read(recipe: Recipe, stage: str, before: Path | None, quantise: str | None) -> Checkpoint:
    if before is None:
        return join_parts(recipe.model, recipe.seed, recipe.stages[stage].template, quantise, dtype=None)
    return load_checkpoint(before, quantise, dtype=None).with_recipe(template=recipe.template_of(stage))


def _sketched(recipe: Recipe, stage: str, before: Path | None) -> Checkpoint:
    if before is None:
        found = outline(recipe.model, recipe.stages[stage].template)
    else:
        found = outline(ModelRecipe.model_validate({"start_from": str(before)}), recipe.template_of(stage))
    return Checkpoint(found.sketch(), found.tokenizer, found.preprocess, found.recipe)
