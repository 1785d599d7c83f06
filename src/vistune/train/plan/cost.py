"""How long a stage takes on a kind of GPU, and how much it writes; only the share of the peak is assumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vistune.errors import VistuneError
from vistune.model.llava import Llava
from vistune.recipe import RunRecipe, StageRecipe
from vistune.train.flops import ModelFlops, model_flops
from vistune.train.plan.estimate import MOMENTS, WEIGHT, told_size
from vistune.train.plan.sketch import count_parameters

SHARE = (
    0.40  # of the peak, that operations reach; what was published lies between 0.30 and 0.53: see the tests
)
_STORED = 4  # bytes of a parameter in a checkpoint, at most


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        peak: operations a second, dense bfloat16 with 32-bit accumulation (NVIDIA's data sheets).
        memory: GiB.
    """

    name: str
    peak: float
    memory: float


_GPUS = {
    "h200": Gpu("H200", 989e12, 141),
    "h100": Gpu("H100", 989e12, 80),
    "h100pcie": Gpu("H100 PCIe", 756e12, 80),
    "a100": Gpu("A100", 312e12, 80),
    "a10040gb": Gpu("A100 40GB", 312e12, 40),
    "l40s": Gpu("L40S", 362e12, 48),
    "rtx4090": Gpu("RTX 4090", 165e12, 24),
    "rtx3090": Gpu("RTX 3090", 71e12, 24),
}


def find_gpu(name: str) -> Gpu:
    """Return the GPU that ``name`` means, however it is spelt: ``rtx4090``, ``RTX-4090``.

    Raises:
        VistuneError: it is not known; the message lists those that are.
    """
    plain = "".join(filter(str.isalnum, name.lower()))
    if plain not in _GPUS:
        known = ", ".join(gpu.name.lower().replace(" ", "-") for gpu in _GPUS.values())
        raise VistuneError(
            f"--gpu {name}: not known; choose one of: {known}. For the memory of another GPU, use "
            "--gpu-memory."
        )
    return _GPUS[plain]


@dataclass(frozen=True)
class Work:
    """What the steps of a stage compute.

    Attributes:
        tokens: through the decoder.
        pairs: of query and key, as ``attended_pairs`` counts them.
        supervised: tokens through the LM head.
        pictures: shown, each once a step.
        encoded: pictures through the vision encoder.
    """

    tokens: float
    pairs: float
    supervised: float
    pictures: float
    encoded: float


def operations(model: Llava, work: Work, checkpointed: bool) -> float:
    """Count floating-point operations, those of activations that are computed again included.

    Args:
        model: a sketch, set to what the stage trains.
    """
    flops: ModelFlops = model_flops(model)
    again = flops.token_forward * work.tokens + flops.pair / 3 * work.pairs if checkpointed else 0.0
    if checkpointed and model.vision.trained:
        again += flops.picture / 3 * work.encoded
    return (
        flops.token * work.tokens
        + flops.pair * work.pairs
        + flops.prediction * work.supervised
        + flops.patch * flops.patches * work.pictures
        + flops.picture * work.encoded
        + again
    )


def hours(operations: float, gpu: Gpu, devices: int) -> float:
    """Return how long ``devices`` of the kind take at :data:`SHARE` of their peak."""
    return operations / (SHARE * gpu.peak * devices) / 3600


def time_lines(operations: float, gpu: Gpu, devices: int, precision: torch.dtype) -> Iterator[str]:
    """Say how long it takes."""
    if precision is not torch.bfloat16:
        yield "time: not estimated: the GPUs' peaks are those of bfloat16. Set `precision: bfloat16`."
        return
    each = f"{devices} x {gpu.name}" if devices > 1 else f"one {gpu.name}"
    yield (
        f"time: {told_hours(hours(operations, gpu, devices))} on {each}, at {SHARE:.0%} of "
        f"{gpu.peak / 1e12:,.0f} TFLOP/s each ({operations:.3g} operations)"
    )


def told_hours(hours: float) -> str:
    if hours < 1 / 60:
        return "less than a minute"
    return f"about {hours:,.1f} hours" if hours >= 1 else f"about {60 * hours:,.0f} minutes"


@dataclass(frozen=True)
class Disk:
    """Bytes that a stage writes: its checkpoint, the saves that are there at a time, and kept features."""

    checkpoint: float
    save: float
    saves: int
    features: float

    @property
    def total(self) -> float:
        return self.checkpoint + self.save * self.saves + self.features

    def line(self, free: int | None = None) -> str:
        parts = [f"a checkpoint {told_size(self.checkpoint)}"]
        if self.saves:
            parts.append(f"{self.saves} saves of {told_size(self.save)}")
        if self.features:
            parts.append(f"kept features {told_size(self.features)}")
        room = "" if free is None else f"; {told_size(free)} are free"
        return f"disk: at most {told_size(self.total)} ({', '.join(parts)}){room}"


def disk_of(
    model: Llava, stage: StageRecipe, run: RunRecipe, precision: torch.dtype, steps: int, pictures: int
) -> Disk:
    """Count what a stage writes, beside logs.

    Args:
        model: a sketch, set to what the stage trains.
        pictures: different ones that the stage shows.
    """
    trained, frozen = count_parameters(model)
    each = WEIGHT[stage.optimizer.weights] + MOMENTS[stage.optimizer.kind]
    # While a save is written, those that are kept are still there.
    saves = min(run.keep + 1, (steps - 1) // run.save_steps)
    width = model.vision.patches * model.vision.width * precision.itemsize
    features = float(pictures * width) if run.features == "cache" else 0.0
    apart = stage.lora is not None and not stage.lora.merge
    return Disk(_STORED * (trained if apart else trained + frozen), each * trained, saves, features)
