"""One process, or many under ``torchrun``: the same run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vistune.model.layers import decoder_layers
from vistune.model.llava import Llava


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them."""

    rank: int
    size: int
    device: torch.device
    distributed: bool

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.distributed:
            dist.barrier()

    def total(self, value: float) -> float:
        """The sum of every process's ``value``."""
        if not self.distributed:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader does it, then the others: what it leaves in files is there for them."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


@contextmanager
def assemble() -> Iterator[Team]:
    """Join the processes that ``torchrun`` started, or be alone; on GPUs where there are any."""
    local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield Team(0, 1, device, distributed=False)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), device, distributed=True)
    finally:
        dist.destroy_process_group()


def shard(model: Llava, team: Team, precision: torch.dtype) -> None:
    """Spread ``model`` over the processes (FSDP2), each decoder layer a unit; alone, nothing is done.

    Trained weights and gradients stay float32; a layer computes in ``precision``.
    """
    if not team.distributed:
        return
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32)
    units: list[nn.Module] = [*decoder_layers(model.language_model), model]
    for unit in units:
        fully_shard(unit, mp_policy=policy)
        assert isinstance(unit, FSDPModule)
        # The loss is divided by all processes' tokens, so gradients are to be added up; and Gloo knows no
        # other reduction.
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)
