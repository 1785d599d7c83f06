"""The connector: from the vision encoder's features to the LLM's embeddings."""

from __future__ import annotations

from torch import Tensor, nn


class Connector(nn.Module):
    """One linear layer (LLaVA), or two with a GELU between them (LLaVA-1.5).

    Args:
        kind: ``linear`` or ``mlp2x_gelu``.
        features: width of the vision features.
        width: width of the LLM's embeddings.
    """

    def __init__(self, kind: str, features: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "linear":
            self.layers = nn.Sequential(nn.Linear(features, width))
        else:
            self.layers = nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """[..., features] -> [..., width]."""
        return self.layers(features)
