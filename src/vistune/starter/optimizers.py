"""Muon for the matrices of transformer layers, AdamW for the rest.

At this size most of a training goes into learning what belongs to what; Muon does that in far fewer steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class MuonAdamW:
    """Both optimizers as one.

    Args:
        layers: the modules whose matrices Muon learns.
        model: everything that is learned.
        peak: the highest learning rate.
        weight_decay: of the matrices.
    """

    def __init__(
        self, layers: Iterable[nn.Module], model: nn.Module, peak: float, weight_decay: float
    ) -> None:
        matrices = [p for layer in layers for p in layer.parameters() if p.ndim == 2]
        taken = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in taken]
        self._parameters = [*matrices, *others]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=peak, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        )

    def step(self, rate: float, max_norm: float = 1.0) -> None:
        """Clip the gradients, take a step at ``rate``, and forget the gradients."""
        nn.utils.clip_grad_norm_(self._parameters, max_norm)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
