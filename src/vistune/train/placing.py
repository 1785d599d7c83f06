"""Weights on their devices: one process has read them, the others receive them, a layer at a time.

The process that leads holds the model in the CPU's memory. The others hold its outline alone (tensors on the
meta device), so that eight processes do not need eight times a model's memory.
"""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vistune.train.parallel import Team


def materialize(part: nn.Module, team: Team) -> None:
    """Move ``part`` to this process's device. All processes call this.

    What is spread over the processes already is left alone. So is what is not the leader's to give: 4-bit
    weights are on their device from the start.
    """
    if team.size == 1:
        part.to(team.device)
        return
    placed: dict[int, Tensor] = {}  # tied weights stay tied
    for module in part.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and not isinstance(tensor, DTensor):
                    if id(tensor) not in placed:
                        placed[id(tensor)] = _received(tensor, team)
                    table[name] = placed[id(tensor)]  # type: ignore[assignment]


def structure(model: nn.Module) -> str:
    """Return what differs if two processes would not send and receive the same tensors."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    told = [(name, str(x.dtype), tuple(x.shape), x.requires_grad) for name, x in tensors]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _received(tensor: Tensor, team: Team) -> Tensor:
    """The leader's ``tensor`` on this process's device."""
    found = tensor.detach()
    if found.is_meta:
        found = torch.empty_like(found, device=team.device)
    found = found.to(team.device).contiguous()
    dist.broadcast(found, 0)
    return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found
