"""How much a decoder, or a trained encoder, keeps for its backward pass: asked of autograd itself, without
storage.

Every tensor that autograd saves in a forward pass is counted, once for each storage. The pass runs under
torch's ``FakeTensorMode``: shapes and dtypes are real, memory and time are not spent. So this holds for any
decoder of transformers, with adapters or without, at the cost of a second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vistune.model.adapters import experts_of
from vistune.model.layers import decoder_layers
from vistune.model.vision import VisionEncoder

_ATTENTION = "vistune_estimate"
_SHORT, _LONG = 128, 256  # tokens of two passes; their difference is what a token costs


@dataclass(frozen=True)
class Activations:
    """Bytes a token.

    Attributes:
        kept: by all layers, from the forward to the backward pass.
        layer: by one layer, on the average.
        boundary: of a layer's input, which is all that checkpointing keeps of a layer.
    """

    kept: float
    layer: float
    boundary: float

    def bytes(self, tokens: int, layers: int, checkpointed: bool) -> float:
        """For a row of ``tokens``; checkpointed, one layer at a time is computed again."""
        if checkpointed:
            return tokens * (layers * self.boundary + self.layer)
        return tokens * self.kept


def measure_activations(language_model: Any, precision: torch.dtype) -> Activations:
    """Count for ``language_model``, on the meta device, its ``requires_grad`` set as the stage sets it.

    All computes in ``precision``, as in training. Two layers are looked at, and stand for the rest.
    """
    if precision is torch.float32 and experts_of(language_model):
        # torch describes the product of a mixture's experts in bfloat16 alone: half the bytes.
        half = measure_activations(language_model, torch.bfloat16)
        return Activations(2 * half.kept, 2 * half.layer, 2 * half.boundary)
    layers = language_model.config.get_text_config().num_hidden_layers
    one, two = (_kept(language_model, count, precision) for count in (1, min(2, layers)))
    layer = two - one if layers > 1 else one
    width = language_model.get_input_embeddings().weight.shape[1]
    return Activations(one + (layers - 1) * layer, layer, float(width * precision.itemsize))


def measure_encoder(vision: VisionEncoder, precision: torch.dtype) -> float:
    """Bytes that ``vision`` keeps for one picture, as it is set to be trained."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    _register()
    copied = copy.deepcopy(vision).train()
    with suppress(ValueError):
        copied.backbone.set_attn_implementation(_ATTENTION)
    side = vision.image_size
    with FakeTensorMode():
        _without_storage(copied, precision)
        return _kept_by(copied, lambda: copied(torch.empty(2, 3, side, side, dtype=precision))) / 2


def _kept(language_model: Any, layers: int, precision: torch.dtype) -> float:
    """Bytes a token that a model of the first ``layers`` keeps."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    _register()
    model = _shortened(language_model, layers).train()
    with suppress(ValueError):  # an attention that cannot be replaced is looked at as it is
        model.set_attn_implementation(_ATTENTION)
    with FakeTensorMode():
        _without_storage(model, precision)
        return (_saved(model, _LONG) - _saved(model, _SHORT)) / (_LONG - _SHORT)


def _shortened(language_model: Any, layers: int) -> Any:
    """A copy of the first ``layers``."""
    copied = copy.deepcopy(language_model)
    del decoder_layers(copied)[layers:]
    return copied


def _saved(model: Any, tokens: int) -> float:
    embedding = model.get_input_embeddings().weight
    inputs = torch.empty(1, tokens, embedding.shape[1], dtype=embedding.dtype, requires_grad=True)
    positions = torch.arange(tokens)[None]
    return _kept_by(
        model,
        lambda: model.get_decoder()(inputs_embeds=inputs, position_ids=positions, use_cache=False),
    )


def _kept_by(model: nn.Module, forward: Callable[[], Any]) -> float:
    """Bytes that autograd saves in a forward pass, beside the parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            saved[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return float(sum(tensor.untyped_storage().nbytes() for tensor in saved.values()))


def _without_storage(model: nn.Module, precision: torch.dtype) -> None:
    """Put every parameter and buffer, in place, on a CPU that holds nothing."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=precision)
                module._parameters[name] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Keeps what FlexAttention and the packed attention of the CPU keep: inputs, output, a sum a query."""
    attended = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
    )
    return attended.transpose(1, 2), None
