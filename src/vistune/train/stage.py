"""One optimizer step, and the schedule it follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vistune.data.batch import Batch
from vistune.errors import VistuneError
from vistune.model.llava import Llava
from vistune.train.optimizers import set_rates
from vistune.train.parallel import Team


@dataclass(frozen=True)
class StepResult:
    loss: float  # mean over the supervised tokens of the whole step
    gradient_norm: float
    tokens: int
    supervised: int
    samples: int


def schedule(step: int, steps: int, warmup_ratio: float) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine to zero. ``step`` counts from 0.

    As the paper (Sec. 4.2) and the reference's scripts have it.
    """
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def optimizer_step(
    model: Llava,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    factor: float,
    max_norm: float,
    precision: torch.dtype,
    team: Team,
) -> StepResult:
    """Learn from ``batches``: the loss is a mean over the supervised tokens of the whole step, of all
    processes together.

    Args:
        factor: of the peak learning rates.

    Raises:
        VistuneError: nothing to learn from, or a loss or gradient that is not finite; nothing was changed
            then.
    """
    supervised = int(team.total(sum(len(batch.targets) for batch in batches)))
    if supervised == 0:
        raise VistuneError("A batch has no token to learn from: every label is masked. Check the data.")
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        with torch.autocast(model.device.type, precision, enabled=precision is not torch.float32):
            loss = model(batch) / supervised
        loss.backward()
        total += loss.item()
    total = team.total(total)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = _number(nn.utils.clip_grad_norm_(trained, max_norm))
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise VistuneError(
            f"The loss ({total}) or its gradient ({norm}) is not finite; this step was not taken. "
            "Lower `learning_rate`, or use `precision: float32`."
        )
    set_rates(optimizer, factor)
    optimizer.step()
    return StepResult(
        total,
        norm,
        int(team.total(sum(batch.tokens for batch in batches))),
        supervised,
        int(team.total(sum(batch.samples for batch in batches))),
    )


def _number(norm: torch.Tensor) -> float:
    """Gathered first, where it is spread over processes (a DTensor)."""
    gather = getattr(norm, "full_tensor", None)
    return float(norm if gather is None else gather())
