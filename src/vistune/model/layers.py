"""Where a causal LM of transformers keeps its decoder layers."""

from __future__ import annotations

from typing import Any

from torch import nn


def decoder_layers(language_model: Any) -> nn.ModuleList:
    """Return the decoder's layers, whatever the model calls them; an empty list if it keeps none together."""
    count = language_model.config.get_text_config().num_hidden_layers
    lists = (m for m in language_model.get_decoder().modules() if isinstance(m, nn.ModuleList))
    return next((layers for layers in lists if len(layers) == count), nn.ModuleList())
