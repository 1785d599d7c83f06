"""A model that is trained, computed with for a moment: nothing of its training is touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Compute without dropout and gradients; afterwards each module trains, or not, as it did before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        for unit in _units(model):
            unit.reshard()


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all weights whole on every process, in the precision that they are computed in.

    Inside, each process may call any part of the model as often as it likes: nothing is communicated. So the
    memory of the whole model is needed for as long. A model that is not spread over processes stays as it is.
    """
    units = _units(model)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # FSDP's own default: all but the root give their weights up after they were computed.
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def _units(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]
