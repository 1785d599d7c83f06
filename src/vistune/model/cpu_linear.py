"""Linear layers on the CPU, by whichever library multiplies faster there.

PyTorch comes with two libraries that multiply matrices of 32 bits, MKL and oneDNN, and always takes MKL for
its linear layers. On an AMD EPYC oneDNN is twice as fast, on an Intel Xeon it is a quarter slower. So both
are timed once, on the shapes of the model at hand, and the faster one is taken. The products are the same but
for the order in which they are summed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vistune.data.pack import padded_length

Library: TypeAlias = Literal["mkl", "onednn"]

# Below both, starting oneDNN takes longer than the product. Larger weights come from memory, not a cache:
# oneDNN reads them faster, however little there is to multiply.
_MULTIPLICATIONS, _WEIGHTS = 2**20, 2**18
_TRIALS = 4  # of each library, in turn; the fastest counts
_TIMED = 2**27  # multiplications of one timed product at most
_FEW = 64  # rows; fewer tell little of a packed row
_SHAPES = 4  # how many different weights are timed, the most expensive first
_GAIN = 0.75  # oneDNN must take at most this share of MKL's time: noise must not decide a tie


_decided: Library | None = None


class CpuKernel:
    """Which library a model's linear layers are multiplied by on the CPU; its layers share one.

    Attributes:
        library: None until it is decided, by :meth:`choose` or at the first product that is worth it.
    """

    def __init__(self) -> None:
        self.library: Library | None = None if _is_there() else "mkl"
        self._shapes: Counter[tuple[int, int]] = Counter()

    def add(self, layer: nn.Linear) -> None:
        """Count a layer among those that are multiplied."""
        self._shapes[layer.out_features, layer.in_features] += 1

    def choose(self, rows: int, gradients: bool) -> Library:
        """Decide by time, if it is not decided yet.

        Args:
            rows: how many are multiplied at a time.
            gradients: whether the products of the backward pass count, too.
        """
        global _decided
        if self.library is None:
            # One decision a process: two runs in it must not differ by how busy the machine was.
            _decided = self.library = _decided or self._faster(rows, gradients)
        return self.library

    def take(self, library: str) -> bool:
        """Decide for ``library``, as a run's beginning did; return whether this machine has it."""
        if library == "mkl":
            self.library = "mkl"
        elif library == "onednn" and _is_there():
            self.library = "onednn"
        return self.library == library

    def _faster(self, rows: int, gradients: bool) -> Library:
        taken: dict[Library, float] = {"mkl": 0.0, "onednn": 0.0}
        costly = sorted(self._shapes, key=lambda shape: -self._shapes[shape] * shape[0] * shape[1])
        for outside, inside in costly[:_SHAPES]:
            timed = padded_length(max(_FEW, min(rows, _TIMED // (outside * inside))))
            for library, seconds in _time_products(timed, outside, inside, gradients):
                taken[library] += self._shapes[outside, inside] * seconds
        return "onednn" if taken["onednn"] < _GAIN * taken["mkl"] else "mkl"


class CpuLinear(nn.Linear):
    """A linear layer like any other; ``kernel`` says which library multiplies."""

    kernel: CpuKernel

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if not _suits(input, self.weight):
            return super().forward(input)
        if self.kernel.choose(input.numel() // input.shape[-1], gradients=False) == "mkl":
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, self.bias)
        return product


def use_faster_library(model: nn.Module) -> CpuKernel:
    """Replace all plain linear layers of ``model``, in place, by :class:`CpuLinear` with the same weights.

    What is not a product of large matrices of 32 bits on the CPU is computed as before.
    """
    kernel = CpuKernel()
    replaced: dict[nn.Module, CpuLinear] = {}
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if type(child) in (nn.Linear, CpuLinear):
                assert isinstance(child, nn.Linear)
                if child not in replaced:  # one layer may have several places
                    replaced[child] = _with_kernel(child, kernel)
                module._modules[name] = replaced[child]
    return kernel


def _with_kernel(layer: nn.Linear, kernel: CpuKernel) -> CpuLinear:
    with torch.device("meta"):
        ours = CpuLinear(layer.in_features, layer.out_features, layer.bias is not None)
    ours.weight, ours.bias = layer.weight, layer.bias  # the same parameters: a tied head stays tied
    ours._forward_hooks, ours._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks
    ours.train(layer.training)
    ours.kernel = kernel
    kernel.add(ours)
    return ours


def _is_there() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


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
        for_x, for_weight, _ = ctx.needs_input_grad
        # A frozen layer's backward pass does not read its input: in stage 1, a third of all activations.
        ctx.save_for_backward(x if for_weight else None, weight if for_x else None)
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
    """[N, ...] -> [N or some more, ...], with zeros.

    oneDNN makes and keeps code, up to a megabyte, for each number of rows that it meets, and shall meet few.
    The packer fills its rows to such a number, so that the decoder's operands are taken as they are.
    """
    missing = padded_length(len(rows)) - len(rows)
    return functional.pad(rows, (0, 0, 0, missing)) if missing else rows


def _time_products(rows: int, outside: int, inside: int, gradients: bool) -> Iterator[tuple[Library, float]]:
    """Seconds of one layer's products by each library, the best of several trials."""
    generator = torch.Generator()  # of its own: timing must not shift the draws of dropout
    shapes = ((rows, inside), (outside, inside), (rows, outside))
    x, weight, grad = (torch.randn(shape, generator=generator) for shape in shapes)
    by: dict[Library, Sequence[Callable[[], Tensor]]] = {
        "mkl": (lambda: functional.linear(x, weight), lambda: grad @ weight, lambda: grad.t() @ x),
        "onednn": (
            lambda: _onednn(x, weight),
            lambda: _onednn(grad, weight.t()),
            lambda: _onednn(grad.t(), x.t()),
        ),
    }
    best: dict[Library, float] = {}
    with torch.no_grad():
        for trial in range(_TRIALS + 1):  # the first makes code and fills caches
            for library, products in by.items():
                started = time.perf_counter()
                for product in products if gradients else products[:1]:
                    product()
                seconds = time.perf_counter() - started
                if trial:
                    best[library] = min(seconds, best.get(library, seconds))
    yield from best.items()
