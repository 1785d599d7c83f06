"""The frozen vision encoder: patch features of one of its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class VisionEncoder(nn.Module):
    """A CLIP-style encoder of transformers, read at one hidden layer.

    Args:
        backbone: for example ``CLIPVisionModel``; never trained here.
        layer: which hidden state to read; -2 is the second-to-last layer (the paper's choice).
        select: ``patch`` drops the class token, ``cls_patch`` keeps it.
    """

    def __init__(self, backbone: Any, layer: int = -2, select: str = "patch") -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.layer, self.select = layer, select

    @property
    def width(self) -> int:
        return int(self.backbone.config.hidden_size)

    @property
    def patches(self) -> int:
        """How many features a picture gives."""
        config = self.backbone.config
        return int((config.image_size // config.patch_size) ** 2 + (self.select == "cls_patch"))

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """``pixels`` [N, 3, H, W] -> features [N, patches, width]."""
        states = self.backbone(pixels, output_hidden_states=True).hidden_states[self.layer]
        return states[:, 1:] if self.select == "patch" else states

    def train(self, mode: bool = True) -> VisionEncoder:
        """Stay in evaluation mode: the encoder is frozen."""
        return super().train(False)
