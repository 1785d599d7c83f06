"""One optimizer step, and the schedule it follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

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
    broken: int  # pictures that were found unreadable


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
    team: Team,
    broken: int = 0,
    once: bool = False,
) -> StepResult:
    """Learn from ``batches``: the loss is a mean over the supervised tokens of the whole step, of all
    processes together.

    Args:
        factor: of the peak learning rates.
        broken: pictures that this process found unreadable; they are counted over all.
        once: communicate gradients with the last batch alone; until then each process holds its own, whole.

    Raises:
        VistuneError: nothing to learn from, or a loss or gradient that is not finite; nothing was changed
            then.
    """
    # The device is waited for once, when the step has been computed: what is counted stays there until then.
    counts = team.sums(_counts(batches, broken, team.device))
    optimizer.zero_grad(set_to_none=True)
    sum_of_losses = torch.zeros((), dtype=torch.float64, device=team.device)
    for number, batch in enumerate(batches, 1):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(not once or number == len(batches))
        loss = model(batch) / counts[0].float()
        loss.backward()
        sum_of_losses += loss.detach()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    gradient_norm = _whole(nn.utils.clip_grad_norm_(trained, max_norm))
    numbers = torch.stack([team.sums(sum_of_losses), gradient_norm.double(), *counts.double()])
    total, norm, supervised, tokens, samples, unreadable = numbers.tolist()
    if supervised == 0:
        raise VistuneError("A batch has no token to learn from: every label is masked. Check the data.")
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise VistuneError(
            f"The loss ({total}) or its gradient ({norm}) is not finite; this step was not taken. "
            "Lower `learning_rate`, or use `precision: float32`."
        )
    set_rates(optimizer, factor)
    optimizer.step()
    return StepResult(total, norm, int(tokens), int(supervised), int(samples), int(unreadable))


def _counts(batches: Sequence[Batch], broken: int, device: torch.device) -> Tensor:
    """Supervised tokens, tokens, samples and broken pictures of this process."""
    counts = [(len(batch.targets), batch.tokens, batch.samples) for batch in batches]
    return torch.tensor([*(sum(column) for column in zip(*counts, strict=True)), broken], device=device)


def _whole(norm: Tensor) -> Tensor:
    """Gathered if it is spread over processes (a DTensor)."""
    gather = getattr(norm, "full_tensor", None)
    return norm if gather is None else gather()
