"""A model without its weights: what a stage trains, and what that takes, from configurations alone."""

from __future__ import annotations

import torch
from torch import nn

from vistune.model.adapters import add_adapters
from vistune.model.llava import Llava
from vistune.model.outline import outline
from vistune.recipe import ModelRecipe, StageRecipe


def sketch(recipe: ModelRecipe) -> Llava:
    """The model without its weights (on the meta device), to count on.

    Raises:
        VistuneError: a part cannot be read or does not fit.
    """
    return outline(recipe).sketch()


def set_stage(model: Llava, stage: StageRecipe) -> dict[str, tuple[int, int]]:
    """Set what the stage trains, adapters included, on a :func:`sketch`.

    Returns:
        For each part, how many parameters are trained and how many are frozen.
    """
    model.set_trained(set(stage.trains))
    if stage.lora:
        with torch.device("meta"):
            add_adapters(model.language_model, stage.lora, seed=0)
    return {name: count_parameters(part) for name, part in model.parts().items()}


def count_parameters(part: nn.Module) -> tuple[int, int]:
    """How many are trained, and how many are frozen."""
    trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in part.parameters()) - trained
