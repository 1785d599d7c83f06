"""Linear layers by oneDNN on the CPU.

PyTorch brings two libraries that multiply matrices of 32 bits. Its linear layers take MKL, which on an AMD
EPYC takes twice as long as oneDNN, torch.compile's choice. The products are the same but for the order in
which they are summed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Below both, starting oneDNN takes longer than the product. Larger weights come from memory, not a cache:
# oneDNN reads them faster, however little there is to multiply.
_MULTIPLICATIONS, _WEIGHTS = 2**20, 2**18


def use_onednn(model: nn.Module) -> None:
    """Let all plain linear layers of ``model`` compute by oneDNN where it is of use; their weights stay what
    they are, and so does everything that is not a product of large matrices of 32 bits on the CPU."""
    if not _is_there():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear


def _is_there() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class OneDnnLinear(nn.Linear):
    """A linear layer like any other."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if _suits(input, self.weight):
            product: Tensor = _Product.apply(input, self.weight, self.bias)
            return product
        return super().forward(input)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        (weight.numel() >= _WEIGHTS or x.numel() * weight.shape[0] >= _MULTIPLICATIONS)
        and x.dim() > 1
        and x.numel() > 0  # oneDNN has no product of nothing, as a row without a picture needs it
        and x.dtype is weight.dtype is torch.float32
        and x.device.type == "cpu"
        and type(weight) is nn.Parameter  # not one that only looks like it: quantized, sharded, traced
        and type(x) is Tensor
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _Product(torch.autograd.Function):
    """x weight' + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            _product(grad, weight.t()) if for_x else None,
            _onednn(_padded(rows).t(), _padded(x.flatten(0, -2)).t()) if for_weight else None,
            rows.sum(0) if for_bias else None,
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., in], [out, in] -> [..., out]."""
    rows = x.flatten(0, -2)
    return _onednn(_padded(rows), weight, bias)[: len(rows)].unflatten(0, x.shape[:-1])


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, in], [out, in] -> [N, out]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def _padded(rows: Tensor) -> Tensor:
    """[N, ...] -> [N or some more, ...], with zeros: oneDNN makes and keeps code, up to a megabyte, for each
    number of rows that it meets, and shall meet few."""
    count = len(rows)
    step = 1 << (count - 1).bit_length() if count <= 64 else 64 if count <= 512 else 256
    missing = -count % step
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows
