"""One optimizer step, and the schedule it follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import Batch
from vistune.errors import VistuneError
from vistune.model.llava import Llava


@dataclass(frozen=True)
class StepResult:
    loss: float  # mean over the supervised tokens of the whole step
    gradient_norm: float
    tokens: int
    supervised: int


def learning_rate(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up, then cosine to zero (paper Sec. 4.2 and the reference's scripts). ``step`` from 0."""
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, peak: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is set to be trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=peak, weight_decay=weight_decay, fused=True)


def loss_sum(model: Llava, batch: Batch) -> Tensor:
    """Sum of the cross-entropy over supervised positions; the token at t is predicted at t - 1."""
    targets = batch.labels[:, 1:]
    positions = torch.zeros_like(batch.labels, dtype=torch.bool)
    positions[:, :-1] = targets != IGNORE_INDEX
    logits = model(batch.ids, batch.attention_mask, batch.pixels, positions)
    return nn.functional.cross_entropy(logits.float(), targets[targets != IGNORE_INDEX], reduction="sum")


def optimizer_step(
    model: Llava,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[Batch],
    rate: float,
    max_norm: float,
    precision: torch.dtype,
) -> StepResult:
    """Learn from ``micro_batches``: the loss is a mean over all their supervised tokens together.

    Raises:
        VistuneError: the loss or the gradient is not finite; nothing was changed then.
    """
    supervised = sum(int((batch.labels[:, 1:] != IGNORE_INDEX).sum()) for batch in micro_batches)
    if supervised == 0:
        raise VistuneError("A batch has no token to learn from: every label is masked. Check the data.")
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for batch in micro_batches:
        with torch.autocast(model.device.type, precision, enabled=precision is not torch.float32):
            loss = loss_sum(model, batch) / supervised
        loss.backward()
        total += loss.item()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, max_norm))
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise VistuneError(
            f"The loss ({total}) or its gradient ({norm}) is not finite; this step was not taken. "
            "Lower `learning_rate`, or use `precision: float32`."
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    tokens = sum(int(batch.attention_mask.sum()) for batch in micro_batches)
    return StepResult(total, norm, tokens, supervised)
