"""Optimizers: AdamW, and its kin that hold less for each trained weight.

Bytes for each trained weight on the device:

| ``optimizer``                              | weight | gradient | moments | together |
|--------------------------------------------|--------|----------|---------|----------|
| ``adamw``                                  | 4      | 4        | 8       | 16       |
| ``adamw_8bit``                             | 4      | 4        | 2       | 10       |
| ``{weights: bfloat16}``                    | 2      | 2        | 8       | 12       |
| ``{kind: adamw_8bit, weights: bfloat16}``  | 2      | 2        | 2       | 6        |
| ``{offload: true}``                        | 4      | 4        | 0       | 8        |
| ``{weights: bfloat16, offload: true}``     | 2      | 2        | 0       | 4        |
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from vistune.errors import VistuneError
from vistune.model.llava import Llava
from vistune.recipe import OptimizerRecipe, StageRecipe
from vistune.train.offload import OffloadedAdamW


def make_optimizer(model: Llava, stage: StageRecipe) -> torch.optim.Optimizer:
    """Return the stage's optimizer over what is set to be trained.

    Each part has groups, and a peak rate, of its own. Weights decay if they are matrices; biases and norms
    do not.

    Raises:
        VistuneError: this machine lacks what ``stage.optimizer`` needs.
    """
    groups, recipe = list(_groups(model, stage)), stage.optimizer
    check_optimizer(recipe, model.device)
    if recipe.offload:
        return OffloadedAdamW(groups)
    if not needs_torchao(recipe):
        return torch.optim.AdamW(groups, fused=True)
    from vistune.train.low_memory import AdamW8bit, AdamWRounded

    kind: Any = AdamW8bit if recipe.kind == "adamw_8bit" else AdamWRounded
    optimizer: torch.optim.Optimizer = kind(groups, bf16_stochastic_round=recipe.weights == "bfloat16")
    return optimizer


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` of its peak."""
    for group in optimizer.param_groups:
        rate = factor * group["peak"]
        if isinstance(group["lr"], Tensor):  # torchao's optimizers take nothing else
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the learning rate of each part."""
    return {group["part"]: float(group["lr"]) for group in optimizer.param_groups}


def needs_torchao(recipe: OptimizerRecipe) -> bool:
    return not recipe.offload and (recipe.kind == "adamw_8bit" or recipe.weights == "bfloat16")


def check_optimizer(recipe: OptimizerRecipe, device: torch.device, processes: int = 1) -> None:
    """Refuse an optimizer that this machine cannot run.

    Raises:
        VistuneError: torchao is needed and not installed; or ``offload`` finds no GPU, or several processes.
    """
    if needs_torchao(recipe) and find_spec("torchao") is None:
        raise VistuneError(
            "`optimizer: adamw_8bit` and `weights: bfloat16` need torchao, which is not installed: "
            "pip install 'vistune[low-memory]'."
        )
    if recipe.offload and device.type != "cuda":
        raise VistuneError(
            "optimizer.offload: moves the optimizer's state out of a CUDA GPU's memory, but this run "
            f"computes on the {device.type}. Leave `offload` out here."
        )
    if recipe.offload and processes > 1:
        raise VistuneError(
            f"optimizer.offload: works with one process, not with {processes}: several processes share the "
            "optimizer's state already. Leave `offload` out, or start the run without torchrun."
        )


def _groups(model: Llava, stage: StageRecipe) -> Iterator[dict[str, Any]]:
    for part in stage.trains:
        trained = [p for p in model.parts()[part].parameters() if p.requires_grad]
        for decay, chosen in (
            (stage.weight_decay, [p for p in trained if p.ndim > 1]),
            (0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if chosen:
                peak = stage.rate_of(part)
                yield {"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay, "part": part}
