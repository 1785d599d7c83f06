"""AdamW in the CPU's memory, for weights on a GPU.

torchao's ``CPUOffloadOptimizer`` copies gradients while the backward pass runs, before they are clipped, and
its state does not fit torch's checkpoints. Here gradients are copied in ``step``, when they are final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vistune.train.restore import restore

_MASTER = "master"


class OffloadedAdamW(torch.optim.Optimizer):
    """AdamW whose moments are in the CPU's memory, and which computes there.

    The weights that it updates are copies of 32 bits. Where the model's have 16, these copies are part of the
    optimizer's state, and the model gets them rounded: what is learned does not depend on the rounding.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        groups = list(groups)
        self._hosts: dict[Tensor, Tensor] = {p: _copy(p) for group in groups for p in group["params"]}
        self._inner = torch.optim.AdamW(
            [{**group, "params": [self._hosts[p] for p in group["params"]]} for group in groups], fused=True
        )
        super().__init__(groups, self._inner.defaults)
        self._changed = False  # whether the model's weights are newer than the copies
        for weight, host in self._hosts.items():
            state = {"step": torch.tensor(0.0), "exp_avg": _zeros(host), "exp_avg_sq": _zeros(host)}
            self._inner.state[host] = state
            master = {} if weight.dtype is host.dtype else {_MASTER: host.data}
            self.state[weight] = {**state, **master}  # the same tensors: AdamW changes them in place

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the copies by the gradients as they now are, then the weights."""
        assert closure is None
        self._bring()
        for group, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner["lr"] = group["lr"]
        self._inner.step()
        for weight, host in self._hosts.items():
            _local(weight).copy_(host, non_blocking=True)
        _wait(self._hosts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state over; the weights are taken from the model at the next step."""
        restore(self, state_dict)
        self._changed = True

    def _bring(self) -> None:
        """Copy gradients, and after a load the weights, to the CPU."""
        for weight, host in self._hosts.items():
            if self._changed and _MASTER not in self.state[weight]:
                host.copy_(_local(weight))
            if weight.grad is None:
                host.grad = None
                continue
            if host.grad is None:
                host.grad = _zeros(host)
            host.grad.copy_(_local(weight.grad), non_blocking=True)
        self._changed = False
        _wait(self._hosts)


def _copy(weight: Tensor) -> Tensor:
    host = torch.empty(weight.shape, dtype=torch.float32, pin_memory=torch.cuda.is_available())
    return host.copy_(_local(weight.detach()))


def _local(weight: Tensor) -> Tensor:
    """Return this process's part of a weight, which is all of it: there is one process."""
    local = getattr(weight, "to_local", None)
    return weight if local is None else local()


def _zeros(host: Tensor) -> Tensor:
    return torch.zeros(host.shape, dtype=host.dtype, pin_memory=torch.cuda.is_available())


def _wait(weights: Iterable[Tensor]) -> None:
    device = next(iter(weights)).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
