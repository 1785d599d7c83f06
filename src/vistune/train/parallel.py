"""One process, or many under ``torchrun``: the same run."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from vistune.errors import VistuneError
from vistune.model.layers import decoder_layers
from vistune.model.llava import Llava

_LONG = timedelta(days=30)  # the leader may prepare millions of records meanwhile
_Thing = TypeVar("_Thing")


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them.

    Attributes:
        distributed: whether there may be others.
        patient: the group in which processes wait for work that may take hours, and exchange objects.
    """

    rank: int
    size: int
    device: torch.device
    distributed: bool
    patient: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def memory(self) -> int:
        """Bytes that this process may use: a GPU's, or its share of the machine's."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return cpu_memory(int(os.environ.get("LOCAL_WORLD_SIZE", self.size)))

    def wait(self) -> None:
        """Wait until all processes are here, however long the others work."""
        if self.distributed:
            dist.barrier(group=self.patient)

    def total(self, value: float) -> float:
        """Return the sum of every process's ``value``."""
        return float(self.sums(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def sums(self, values: Tensor) -> Tensor:
        """Add up every process's ``values``, in place and without waiting for the device."""
        if self.distributed:
            dist.all_reduce(values)
        return values

    def gather(self, thing: _Thing) -> list[_Thing]:
        """Return every process's ``thing``, in their order."""
        if not self.distributed:
            return [thing]
        things: list[_Thing] = [thing] * self.size
        dist.all_gather_object(things, thing, group=self.patient)
        return things

    def agree(self, what: str, value: str) -> None:
        """Refuse to go on with processes that would not do the same.

        Raises:
            VistuneError: on every process, if ``value`` differs between them.
        """
        values = self.gather(value)
        others = [rank for rank, found in enumerate(values) if found != values[0]]
        if others:
            raise VistuneError(
                f"{what}: process {others[0]} found {values[others[0]]}, process 0 found {values[0]}. All "
                "processes must read the same files with the same version of vistune. Put data, pictures and "
                "the run's folder where every node sees the same files."
            )

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leader do it, then the others: they find what it left in files.

        Raises:
            VistuneError: on the others, if the leader failed.
        """
        if self.leads:
            try:
                yield
            except BaseException:
                self.gather(False)
                raise
            self.gather(True)
            return
        if not self.gather(True)[0]:
            raise VistuneError("Process 0 failed; its message says why.")
        yield


def cpu_memory(processes: int) -> int:
    """Bytes of the machine's memory for each of its ``processes``."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


@contextmanager
def assemble(grouped: bool = False) -> Iterator[Team]:
    """Join the processes that ``torchrun`` started, or be alone; on GPUs if there are any.

    Args:
        grouped: a process that is alone is a group of one, which :func:`shard` needs for mixed precision.
    """
    local, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend)
        patient = dist.new_group(backend="gloo", timeout=_LONG)
        team = Team(dist.get_rank(), dist.get_world_size(), device, True, patient)
    else:
        if grouped:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        team = Team(0, 1, device, distributed=False)
    try:
        yield team
    finally:
        if dist.is_initialized():
            gc.collect()  # models in cycles hold groups; a group that outlives its store ends in an abort
            dist.destroy_process_group()


def shard(
    model: Llava, team: Team, precision: torch.dtype, arrange: Callable[[nn.Module], None] = lambda unit: None
) -> None:
    """Spread ``model`` over the processes (FSDP2), and let it compute in ``precision``.

    Trained weights, their gradients and the sums of gradients keep their own precision. The same holds for
    one process: its trained weights are spread over itself. What is frozen has ``precision`` already and is
    left alone there, and so are all weights if the trained ones have ``precision``, too.

    Args:
        arrange: puts a unit's weights, which are whole yet, where they are to be spread.
    """
    frozen = {parameter for parameter in model.parameters() if not parameter.requires_grad}
    ignored = frozen if team.size == 1 else None
    if team.size == 1 and all(p.dtype is precision for p in model.parameters() if p.requires_grad):
        return
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32)
    mesh = init_device_mesh(team.device.type, (team.size,))
    for unit in _units(model, ignored or set()):
        arrange(unit)
        fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=ignored)
        assert isinstance(unit, FSDPModule)
        # The loss is divided by all processes' tokens, so gradients are to be added up; and Gloo knows no
        # other reduction.
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)


def _units(model: Llava, ignored: set[nn.Parameter]) -> Sequence[nn.Module]:
    """The layers that have something to spread, and last the model, which has the rest. So has a frozen
    encoder: a row without a picture does not compute it."""
    layers = [*(model.vision.layers if model.vision.trained else ()), *decoder_layers(model.language_model)]
    return [*(layer for layer in layers if not ignored.issuperset(layer.parameters())), model]
