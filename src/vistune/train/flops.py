"""Floating-point operations that a step's model needs, and what a GPU could do: for MFU.

A linear layer of W weights multiplies and adds W times for a token, 2W operations; forward once, backward
once for the gradient of its input and once for that of its weights. So a token costs

    6W  where the weights are trained and something before them is, too
    4W  where the weights are frozen but the gradient passes through, as through the LLM of stage 1; or where
        the weights are trained and nothing before them is, as in the connector's first layer
    2W  where neither holds: the frozen vision encoder

Attention costs 4d for each pair of a query and a key, d being the width of all heads together (2d for the
score, 2d for the value), and twice that backward. What is computed again under activation checkpointing does
not count, nor do embeddings, norms and the softmax (as in PaLM, Chowdhery et al., 2022, App. B).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vistune.data.batch import Batch
from vistune.data.pack import Tree
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder

# Dense bf16 with fp32 accumulation, from NVIDIA's data sheets; the first pattern that is found counts.
_PEAKS = (
    (r"\bH200\b", 989e12),
    (r"\bH100 PCIe\b", 756e12),
    (r"\bH100 NVL\b", 835e12),
    (r"\bH100\b", 989e12),
    (r"\bA100\b", 312e12),
    (r"\bL40S\b", 362e12),
    (r"\bRTX 4090$", 165e12),
    (r"\bRTX 3090$", 71e12),
)


@dataclass(frozen=True)
class ModelFlops:
    """Operations, forward and backward, of one unit each.

    Attributes:
        patches: how many a picture has.
        picture: one picture through the vision encoder, as deep as it is read.
        patch: one patch through the connector.
        token: one token through the decoder's linear layers.
        prediction: one supervised token through the LM head.
        pair: one query and one key it attends to, over all layers.
        token_forward: of ``token``, the forward pass.
    """

    patches: int
    picture: float
    patch: float
    token: float
    prediction: float
    pair: float
    token_forward: float = 0.0

    def of_batches(self, batches: Sequence[Batch], pairs: int) -> float:
        """Operations of a step's rows; ``pairs`` of query and key, as ``attended_pairs`` counts them."""
        pictures = sum(0 if batch.pixels is None else len(batch.pixels) for batch in batches)
        patches = sum(self.patches * _pictures(batch) for batch in batches)
        return (
            self.token * sum(tree.tokens for batch in batches for tree in batch.trees)
            + self.prediction * sum(len(batch.targets) for batch in batches)
            + self.pair * pairs
            + self.picture * pictures
            + self.patch * patches
        )


def model_flops(model: Llava) -> ModelFlops:
    """Count what ``model`` costs as it is now set to be trained. For dense decoders, not for experts."""
    language_model = model.language_model
    connector_trained = any(p.requires_grad for p in model.connector.parameters())
    head = language_model.get_output_embeddings()
    config = language_model.config.get_text_config()
    width = config.num_attention_heads * _head_width(config)
    linears = _linears(language_model.get_decoder())
    return ModelFlops(
        patches=model.vision.patches,
        picture=_picture(model.vision),
        patch=_connector(model.connector, connector_trained, model.vision.trained),
        token=sum(_through(layer) for layer in linears),
        prediction=_through(head),
        pair=12.0 * width * config.num_hidden_layers,
        token_forward=2.0 * sum(_weights(layer) for layer in linears),
    )


def attended_pairs(trees: Iterable[Tree]) -> int:
    """How many pairs of query and key the trees attend over: prefixes, and branches to prefix and self."""
    return sum(
        _triangle(tree.prefix) + sum(tree.prefix * branch + _triangle(branch) for branch in tree.branches)
        for tree in trees
    )


def peak_flops(device: torch.device, precision: torch.dtype) -> float | None:
    """Operations a second that a GPU could do; None where that is not known."""
    if device.type != "cuda" or precision is not torch.bfloat16:
        return None
    return peak_of_name(torch.cuda.get_device_name(device))


def peak_of_name(name: str) -> float | None:
    return next((peak for pattern, peak in _PEAKS if re.search(pattern, name)), None)


def _pictures(batch: Batch) -> int:
    """How many different pictures a row shows; each is connected once."""
    pictures = batch.pixels if batch.features is None else batch.features
    return 0 if pictures is None else len(pictures)


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def _linears(module: nn.Module) -> list[nn.Module]:
    """Linear layers, adapters' included; GPT-2 calls its own ``Conv1D``."""
    return [m for m in module.modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]


def _weights(layer: Any) -> int:
    """Multiplications for one token. Not the number of stored values: 4-bit layers pack two in one."""
    if isinstance(layer, nn.Linear):
        return layer.in_features * layer.out_features
    return int(layer.weight.numel())


def _through(layer: Any) -> float:
    """A token through a layer before which something is trained."""
    return (6.0 if layer.weight.requires_grad else 4.0) * _weights(layer)


def _connector(connector: nn.Module, trained: bool, after_trained: bool) -> float:
    layers = [_weights(layer) for layer in _linears(connector)]
    if after_trained:
        return (6.0 if trained else 4.0) * sum(layers)
    return 6.0 * sum(layers) - 2.0 * layers[0] if trained else 2.0 * sum(layers)


def _picture(vision: VisionEncoder) -> float:
    """The layers up to the one that is read; forward only, unless they are trained."""
    config = vision.backbone.config
    patches = vision.patches + vision.dropped - vision.specials
    tokens = patches + vision.specials
    linear = sum(_weights(layer) for layer in _linears(vision.layers))
    embedding = 2.0 * 3 * config.patch_size**2 * config.hidden_size * patches
    layers = 2.0 * linear * tokens + 4.0 * config.hidden_size * tokens**2 * vision.depth
    return 2.0 * embedding + 3.0 * layers if vision.trained else embedding + layers


def _head_width(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
