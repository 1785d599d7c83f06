"""AdamW that holds less for each weight, through torchao. Imported only if torchao is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchao.optim
from torch import Tensor
from torchao.optim.subclass_8bit import OptimState8bit

from vistune.train.restore import restore

_MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))  # and whether they may be negative


class _Started:
    """What both optimizers add to torchao's.

    - A learning rate of 64 bits, so that what is logged is what the schedule says.
    - Moments of 32 bits where torchao would take the weight's 16, in which an average over a thousand steps
      stands still: a change of 0.1% is less than half of a bfloat16's last bit.
    - They exist from the start. torch's checkpoints would otherwise create them by a step of their own.
    """

    param_groups: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Any]]
    _new_buffer: Callable[[Tensor, bool], Tensor]

    def _start(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                moments = {name: self._moment(weight, signed) for name, signed in _MOMENTS}
                self.state[weight] = {"step": torch.tensor(0.0), **moments}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state over, its moments not rounded to the weights' dtype."""
        restore(self, state_dict)  # type: ignore[arg-type]

    def _moment(self, weight: Tensor, signed: bool) -> Tensor:
        buffer = self._new_buffer(weight, signed)
        quantised = type(getattr(buffer, "_local_tensor", buffer)) is not Tensor
        return buffer if quantised else torch.zeros_like(weight, dtype=torch.float32)


class AdamW8bit(_Started, torchao.optim.AdamW8bit):
    """AdamW with moments in 8 bits, block by block (Dettmers et al., 2022)."""

    def __init__(self, groups: Iterable[dict[str, Any]], bf16_stochastic_round: bool) -> None:
        super().__init__(_exact_rates(groups), bf16_stochastic_round=bf16_stochastic_round)
        self._start()

    @staticmethod
    def _subclass_zeros(weight: Tensor, signed: bool, block_size: int) -> Tensor:
        """Seem to be of 32 bits, as torchao's sharded moments do whatever they are said to be."""
        zeros: Tensor = OptimState8bit.zeros(weight.shape, signed, block_size, weight.device, torch.float32)
        return zeros

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        with _uncompiled_on_cpu(self.param_groups):
            return super().step(closure)


class AdamWRounded(_Started, torchao.optim._AdamW):
    """AdamW for weights in bfloat16 that are rounded at random, so that small updates add up."""

    def __init__(self, groups: Iterable[dict[str, Any]], bf16_stochastic_round: bool) -> None:
        super().__init__(_exact_rates(groups), bf16_stochastic_round=bf16_stochastic_round)
        self._start()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        with _uncompiled_on_cpu(self.param_groups):
            return super().step(closure)


def _exact_rates(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**group, "lr": torch.tensor(group["lr"], dtype=torch.float64)} for group in groups]


def _uncompiled_on_cpu(groups: list[dict[str, Any]]) -> contextlib.AbstractContextManager[Any]:
    """Let torchao compile its step on a GPU alone: on a CPU each shape of weight takes seconds and a C++
    compiler, and saves little."""
    if groups[0]["params"][0].device.type == "cpu":
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()
