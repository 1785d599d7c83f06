"""Optimizers, and the learning rates of their groups."""

from __future__ import annotations

import torch

from vistune.model.llava import Llava
from vistune.recipe import StageRecipe


def make_optimizer(model: Llava, stage: StageRecipe) -> torch.optim.Optimizer:
    """Return AdamW over what is set to be trained; each part has groups, and a peak rate, of its own.

    Weights decay if they are matrices; biases and norms do not.
    """
    groups = []
    for part in stage.trains:
        trained = [p for p in model.parts()[part].parameters() if p.requires_grad]
        for decay, chosen in (
            (stage.weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if chosen:
                peak = stage.rate_of(part)
                group = {"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay, "part": part}
                groups.append(group)
    return torch.optim.AdamW(groups, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rate of each part."""
    return {group["part"]: group["lr"] for group in optimizer.param_groups}
