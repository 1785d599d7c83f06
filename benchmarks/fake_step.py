"""One optimizer step of a stage as one process of many takes it, on tensors without storage.

What runs is the training code itself: ``set_trained``, ``set_up``, ``shard``, ``materialize``,
``make_optimizer`` and ``optimizer_step``. torch's fake process group stands for the other processes,
``FakeTensorMode`` gives tensors that know their shape, and torch's ``FSDPMemTracker`` adds up what they would
take. The fake device is a CPU, so attention is what :mod:`vistune.model.attention` does on a CPU.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker, _FSDPRefType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import Batch, to_batch
from vistune.data.pack import Tree, flatten
from vistune.model.llava import Llava
from vistune.recipe import RunRecipe, StageRecipe
from vistune.template import Encoded
from vistune.train import parallel
from vistune.train.compute import PRECISION, set_up
from vistune.train.optimizers import make_optimizer
from vistune.train.parallel import Team, shard
from vistune.train.placing import materialize
from vistune.train.stage import optimizer_step

SUPERVISED = 0.25  # share of a row's tokens, as the estimate assumes where no data tell
_TEXT = 256  # tokens beside each picture
_SENDING = collective_ops - sync_ops
_KINDS = {
    "parameters": {_FSDPRefType.SHARDED_PARAM, _FSDPRefType.BUFFER},
    "gradients": {_FSDPRefType.SHARDED_GRAD},
    "optimizer": {_FSDPRefType.OPT},
    "gathered": {
        _FSDPRefType.UNSHARDED_PARAM,
        _FSDPRefType.ALL_GATHER,
        _FSDPRefType.UNSHARDED_GRAD,
        _FSDPRefType.REDUCE_SCATTER,
    },
    "activations": {_FSDPRefType.ACT, _FSDPRefType.TEMP, _FSDPRefType.INP},
}


@dataclass(frozen=True)
class Simulated:
    """Bytes of one process.

    Attributes:
        held: of its share of the weights, of their gradients and of the optimizer's state, after the step.
        peak: of each kind at the worst moment of the step.
        communicated: outputs of all-gathers, inputs of reduce-scatters, and the few sums of numbers.
    """

    held: dict[str, int]
    peak: dict[str, int]
    communicated: int

    @property
    def total(self) -> int:
        """At the worst moment."""
        return sum(self.peak.values())


@dataclass(frozen=True)
class Case:
    """A stage on one process of several.

    Attributes:
        make: gives the model on the meta device, as processes have it that read no weights.
        once: communicate gradients once a step, not after each row.
    """

    make: Callable[[], Llava]
    stage: StageRecipe
    run: RunRecipe
    precision: torch.dtype
    rank: int
    size: int
    rows: int
    once: bool


def simulate(case: Case) -> Simulated:
    """Take a step of full rows."""
    stage, row_tokens = case.stage, case.run.row_tokens
    with _prepared(case) as (model, optimizer, team, fake):
        batches = [_faked(make_row(model, row_tokens), fake) for _ in range(case.rows)]
        optimizer.zero_grad(set_to_none=True)
        tracker = _Tracker(model, optimizer)
        tracker.track_inputs(tuple(tuple(vars(batch).values()) for batch in batches))
        with tracker:
            model.register_forward_pre_hook(lambda *_: tracker.reset_mod_stats(), prepend=True)
            optimizer_step(model, optimizer, batches, 1.0, stage.max_gradient_norm, team, once=case.once)
        return Simulated(_held(model, optimizer), tracker.peak(), tracker.communicated)


def held(case: Case) -> dict[str, int]:
    """Bytes that the process holds after a step, which is not computed for it."""
    with _prepared(case) as (model, optimizer, _, _):
        return _held(model, optimizer)


@contextlib.contextmanager
def _prepared(case: Case) -> Iterator[tuple[Llava, torch.optim.Optimizer, Team, FakeTensorMode]]:
    """The model spread over the processes, its optimizer with state, and gradients."""
    with _fake_group(case.rank, case.size) as team, FakeTensorMode() as fake:
        model = case.make()
        model.set_trained(set(case.stage.trains))
        set_up(model, case.run, case.precision, PRECISION[case.stage.optimizer.weights])
        materialize(model.vision, team)
        shard(model, team, case.precision, lambda part: materialize(part, team))
        optimizer = make_optimizer(model.train(), case.stage)
        _create_state(optimizer)
        yield model, optimizer, team, fake


def make_row(model: Llava, tokens: int) -> Batch:
    """Fill a row of ``tokens`` with equal samples of one picture each; a quarter of it is supervised."""
    patches, side = model.vision.patches, model.vision.image_size
    count = max(1, tokens // (patches + _TEXT))
    length = tokens // count
    supervised = int(SUPERVISED * length)
    word = model.image_token + 1
    ids = [model.image_token] * patches + [word] * (length - patches)
    labels = [IGNORE_INDEX] * (length - supervised) + [word] * supervised
    trees = [Tree((number,), 0, (length,)) for number in range(count)]
    samples = [[Encoded(ids, labels, [f"{number}.jpg"])] for number in range(count)]
    batch = to_batch(flatten(trees, samples, model.image_token))
    return replace(batch, pixels=torch.empty((count, 3, side, side)))


class _Tracker(FSDPMemTracker):
    """Counts, too, what is communicated, and answers which numbers a fake tensor holds: ones.

    Gradients that are not reduced yet are told apart from activations; FSDPMemTracker does so too late.
    """

    def __init__(self, model: Llava, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self.communicated, self._most = 0, 0
        self._worst: dict[torch.device, dict[Any, int]] = {}
        states = [unit._get_fsdp_state() for unit in model.modules() if isinstance(unit, FSDPModule)]
        self._spread = [p for state in states for g in state._fsdp_param_groups for p in g.fsdp_params]

    def peak(self) -> dict[str, int]:
        """Bytes of each kind at the worst moment."""
        (found,) = self._worst.values()
        return {kind: sum(found[part] for part in parts) for kind, parts in _KINDS.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func in _SENDING:
            self.communicated += CollectiveOp.get_comm_tensor_size(func, result, args, kwargs)
        return result

    def _update_peak_stats(self, peak_state: Any) -> None:
        """Look at the process; at each module, too, would take twice as long."""
        now = sum(found["Total"] for found in self._curr_mem_snap.values())
        if now > self._most:
            self._tell_gradients()
            self._most, self._worst = now, self.get_tracker_snapshot()

    def _tell_gradients(self) -> None:
        for parameter in self._spread:
            computed = getattr(parameter, "_unsharded_param", None)
            if computed is not None and computed.grad is not None:
                self._update_and_maybe_create_winfos(computed.grad, _FSDPRefType.UNSHARDED_GRAD)
            if parameter.unsharded_accumulated_grad is not None:
                summed = parameter.unsharded_accumulated_grad
                self._update_and_maybe_create_winfos(summed, _FSDPRefType.SHARDED_GRAD)


@contextlib.contextmanager
def _fake_group(rank: int, size: int) -> Iterator[Team]:
    """Be process ``rank`` of ``size``, the others of which do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (size,))  # its ranks are read, which fake tensors do not allow
    try:
        with mock.patch.object(parallel, "init_device_mesh", lambda *_: mesh):
            yield Team(rank, size, torch.device("cpu"), distributed=True)
    finally:
        gc.collect()
        dist.destroy_process_group()


def _create_state(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer make its state, as its first step does.

    The first time, DTensor works out on whole tensors how an operation is spread. The tracker would count
    them as if the run held them, so what a step calls is called here.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


def _held(model: Llava, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    parameters = list(model.parameters())
    state = [x for tensors in optimizer.state.values() for x in tensors.values() if isinstance(x, Tensor)]
    return {
        "parameters": sum(map(_bytes, parameters)),
        "gradients": sum(_bytes(p.grad) for p in parameters if p.grad is not None),
        "optimizer": sum(map(_bytes, state)),
    }


def _bytes(tensor: Tensor) -> int:
    """Bytes of this process's share."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()


def _faked(batch: Batch, fake: FakeTensorMode) -> Batch:
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **{name: fake.from_tensor(tensor) for name, tensor in tensors.items()})
