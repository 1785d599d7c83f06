"""How much each of several devices communicates, by arithmetic.

FSDP gathers a layer's weights, in the precision of the run, for its forward pass and again for its backward
pass. What is no layer it gathers once a row. Gradients of what is trained are summed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vistune.model.layers import decoder_layers
from vistune.model.llava import Llava
from vistune.train.plan.estimate import told_size
from vistune.train.plan.sketch import count_parameters


@dataclass(frozen=True)
class Communication:
    """Bytes of what each device gathers from all, and of what all sum up.

    Attributes:
        weights: gathered for each row.
        gradients: summed each time.
        once: whether they are summed once a step, or after every row.
    """

    weights: float
    gradients: float
    once: bool

    def step(self, rows: int) -> float:
        """Bytes of a step in which a device computes ``rows``."""
        return rows * self.weights + (1 if self.once else rows) * self.gradients

    def line(self) -> str:
        often = "a step" if self.once else "a row"
        return (
            f"communicated by each device: {told_size(self.weights)} of weights a row, "
            f"{told_size(self.gradients)} of gradients {often}"
        )


def communication(model: Llava, precision: torch.dtype, once: bool) -> Communication:
    """Count what a device communicates.

    Args:
        model: a sketch, set to what the stage trains.
        once: as :func:`vistune.train.plan.estimate.communicates_once` says.
    """
    trained, frozen = count_parameters(model)
    units = [decoder_layers(model.language_model), *([model.vision.layers] if model.vision.trained else [])]
    in_layers = sum(sum(count_parameters(layers)) for layers in units)
    weights = (trained + frozen + in_layers) * precision.itemsize
    return Communication(float(weights), float(trained * torch.float32.itemsize), once)
