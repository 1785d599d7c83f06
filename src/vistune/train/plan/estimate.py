"""How much memory a stage takes on each device, from configurations alone: no weight is loaded.

What is frozen is held in the precision of the run (4 bits under ``lora.quantise``), what is trained in
float32 with its gradient and AdamW's two moments, or as the stage's ``optimizer`` says. Several devices share
all of that (FSDP). The layer that is computed is made from it, whole and in the precision of the run, on one
device as on several.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from vistune.model.layers import decoder_layers
from vistune.model.llava import LOGITS_AT_ONCE, Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import LoraRecipe, OptimizerRecipe, RunRecipe, StageRecipe
from vistune.train.plan.activations import measure_activations, measure_encoder
from vistune.train.plan.sketch import count_parameters, set_stage

GIB = 2**30
WEIGHT = {"float32": 4, "bfloat16": 2}  # bytes of a trained parameter, and of its gradient
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 + 2 * 4 / 256}  # of AdamW's two; 8 bits have a scale for each 256
_NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # bytes of a weight, its doubly quantised constants included
_SMALLEST = OptimizerRecipe(kind="adamw_8bit", weights="bfloat16", offload=False)
_SUMMED = 4  # bytes of a gradient in float32
_SUPERVISED = 0.25  # share of a row's tokens, where the data do not tell
_WORKING = 4  # tensors as wide as a layer's widest that its backward pass holds; measured
_WORKING_TRAINED = 3  # of a checkpointed layer that is trained: what its weights needed is free by then
_USABLE = 0.9  # of a device; the rest is CUDA's own, and lost between blocks

_ENCODER = "activations of the vision encoder"
_GATHERED, _ONCE_MORE = "layers gathered from all devices", "layers of trained weights once more, in bfloat16"
_OF_LAYER = "gradients of a layer, before they are summed"

_Moment: TypeAlias = tuple[tuple[str, float], ...]  # what is held for the row that is computed


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each device at the worst moment of a step; ``items`` say what for, the largest first."""

    items: tuple[tuple[str, float], ...]
    devices: int

    @property
    def total(self) -> float:
        return sum(size for _, size in self.items)

    def fits(self, memory: int) -> bool:
        """Whether a device of ``memory`` bytes is enough; a tenth of it is not ours to use."""
        return self.total <= _USABLE * memory

    def lines(self) -> Iterator[str]:
        where = "the device" if self.devices == 1 else f"each of {self.devices} devices"
        yield f"memory on {where}: about {told_size(self.total)}"
        for name, size in self.items:
            yield f"  {told_size(size):>9}  {name}"


def estimate_stage(
    model: Llava,
    stage: StageRecipe,
    run: RunRecipe,
    precision: torch.dtype,
    devices: int = 1,
    supervised: float = _SUPERVISED,
    whole_gradients: bool = False,
) -> MemoryEstimate:
    """What ``stage`` takes on each of ``devices``.

    Args:
        model: a :func:`sketch`; it is left as it is.
        supervised: share of a row's tokens that is trained on.
        whole_gradients: each device adds up all gradients of a step before they are communicated. Its share
            of the sums takes their place layer by layer, so at the worst moment it holds hardly any.
    """
    model = copy.deepcopy(model)
    quantised = _linear_weights(model.language_model) if stage.lora and stage.lora.quantise else 0
    counts = set_stage(model, stage)
    trained = sum(trained for trained, _ in counts.values()) / devices
    frozen = sum(frozen for _, frozen in counts.values()) - quantised
    weights = (frozen * precision.itemsize + quantised * _NF4) / devices
    gathered = _Gathered.of(model, precision, devices, stage.optimizer)
    held = [
        ("weights that are frozen", weights),
        *_optimized(stage.optimizer, trained, whole_gradients),
        (_GATHERED if devices > 1 else _ONCE_MORE, gathered.throughout),
    ]
    if whole_gradients:
        # Those of the layer before are being summed, and are counted there.
        held.append(("gradients of all devices' weights", _SUMMED * trained * devices - gathered.summed))
    moments = _moments(model, run, precision, supervised, gathered)
    moment = max(moments, key=lambda items: sum(size for _, size in items))
    items = sorted(((n, s) for n, s in (*held, *moment) if s > 0), key=lambda item: -item[1])
    return MemoryEstimate(tuple(items), devices)


def communicates_once(
    model: Llava, stage: StageRecipe, run: RunRecipe, precision: torch.dtype, devices: int, memory: int
) -> bool:
    """Return whether each of ``devices``, of ``memory`` bytes, has room for all gradients of a step, so that
    they are communicated once, and not after every row.

    Args:
        model: as :func:`estimate_stage` takes it.
    """
    return estimate_stage(model, stage, run, precision, devices, whole_gradients=True).fits(memory)


def _optimized(optimizer: OptimizerRecipe, trained: float, whole: bool) -> Iterator[tuple[str, float]]:
    """What is held for ``trained`` parameters, but for ``whole`` gradients."""
    weight = WEIGHT[optimizer.weights]
    yield f"weights that are trained, in {optimizer.weights}", weight * trained
    yield "their gradients", 0.0 if whole else weight * trained
    yield "AdamW's two moments", 0.0 if optimizer.offload else MOMENTS[optimizer.kind] * trained


def remedies(
    model: Llava, stage: StageRecipe, run: RunRecipe, precision: torch.dtype, devices: int, memory: int
) -> Iterator[str]:
    """Single changes that would make the stage fit into devices of ``memory`` bytes; of more devices, the
    fewest."""
    for setting, changed_stage, changed_run, count in _changes(stage, run, devices, precision):
        found = estimate_stage(model, changed_stage, changed_run, precision, count)
        if found.fits(memory):
            yield f"{setting} would do: about {told_size(found.total)}"
            if count > devices:
                return


def _changes(
    stage: StageRecipe, run: RunRecipe, devices: int, precision: torch.dtype
) -> Iterator[tuple[str, StageRecipe, RunRecipe, int]]:
    checkpointed = run.model_copy(update={"checkpoint_activations": True})
    if not run.checkpoint_activations:
        yield "run.checkpoint_activations=true", stage, checkpointed, devices
    if run.row_tokens > 1024:
        smaller = run.model_copy(update={"row_tokens": max(1024, run.row_tokens // 2)})
        yield f"run.row_tokens={smaller.row_tokens}", stage, smaller, devices
    whole = "llm" in stage.trains and stage.lora is None
    if whole and precision is torch.bfloat16 and stage.optimizer != _SMALLEST:
        changed = stage.model_copy(update={"optimizer": _SMALLEST})
        yield "optimizer={kind: adamw_8bit, weights: bfloat16}", changed, run, devices
    if whole:
        yield "lora", stage.model_copy(update={"lora": LoraRecipe.model_validate({})}), run, devices
    for count in (2, 4, 8, 16, 32, 64):
        if count > devices:
            yield f"{count} devices (torchrun --nproc-per-node)", stage, run, count


def _moments(
    model: Llava, run: RunRecipe, precision: torch.dtype, supervised: float, gathered: _Gathered
) -> Iterator[_Moment]:
    """The moments of a step at which most may be held: at the logits, where a layer's backward pass begins,
    where it ends, and in the encoder."""
    language_model = model.language_model
    config = language_model.config.get_text_config()
    layers, tokens = config.num_hidden_layers, run.row_tokens
    measured = measure_activations(language_model, precision)
    elements = min(supervised * tokens * config.vocab_size, LOGITS_AT_ONCE)
    logits = elements * (3 * 4 + (precision.itemsize if precision.itemsize < 4 else 0))
    between = 2 * config.hidden_size if model.connector.kind == "mlp2x_gelu" else 0  # before and after GELU
    connector = tokens * (model.vision.width + between) * precision.itemsize
    whole = run.checkpoint_activations and not count_parameters(decoder_layers(language_model))[1]
    working = tokens * precision.itemsize * (_WORKING_TRAINED if whole else _WORKING)
    begins, ends = working * _widest(language_model), working * config.hidden_size
    name = f"activations of a row of {tokens:,} tokens"
    encoder = _encoder(model.vision, run, precision)
    layer = tokens * measured.layer
    others = connector + tokens * (measured.kept - measured.layer)
    kept = others + layer  # until the backward pass
    if run.checkpoint_activations:
        others = kept = connector + tokens * layers * measured.boundary
    yield _moment(name, kept, logits, encoder, 0.0)
    yield _moment(name, others + layer + begins, 0.0, encoder, gathered.first)
    yield _moment(name, others + ends, 0.0, encoder, gathered.layer)
    yield ((_ENCODER, encoder + _vision(model.vision, tokens, precision)),)


def _moment(name: str, activations: float, logits: float, encoder: float, gradients: float) -> _Moment:
    answers = "logits, where an answer stands"
    return (name, activations), (answers, logits), (_ENCODER, encoder), (_OF_LAYER, gradients)


def _encoder(vision: VisionEncoder, run: RunRecipe, precision: torch.dtype) -> float:
    """What the encoder keeps of a row's pictures until its own backward pass."""
    if not vision.trained:
        return 0.0
    kept = measure_encoder(vision, precision)
    if run.checkpoint_activations:
        inputs = (vision.patches + vision.dropped) * vision.width * precision.itemsize
        kept = vision.depth * inputs + kept / max(1, vision.depth)
    return kept * _row_pictures(vision, run.row_tokens)


def _row_pictures(vision: VisionEncoder, tokens: int) -> int:
    """How many pictures a row may hold."""
    return max(1, tokens // vision.patches)


def _linear_weights(language_model: Any) -> int:
    """Weights that are held in 4 bits: of every linear layer but the head."""
    linear = (m for m in language_model.get_decoder().modules() if isinstance(m, nn.Linear))
    return sum(m.weight.numel() for m in linear)


@dataclass(frozen=True)
class _Gathered:
    """Bytes that each device holds whole for a while.

    Attributes:
        throughout: in a layer's backward pass: two layers (one is computed, the next on its way), all that is
            no layer, the head's gradient, and the gradients of the layer before, summed in float32.
        summed: of it, these gradients.
        first: gradients of the layer, where its backward pass begins.
        layer: where it ends.
    """

    throughout: float
    summed: float
    first: float
    layer: float

    @classmethod
    def of(cls, model: Llava, precision: torch.dtype, devices: int, optimizer: OptimizerRecipe) -> _Gathered:
        """Count. One device makes only trained weights whole, and none that have the run's precision."""
        if devices == 1 and (precision is torch.float32 or optimizer.weights == "bfloat16"):
            return cls(0.0, 0.0, 0.0, 0.0)
        layers = decoder_layers(model.language_model)
        count = max(1, len(layers))
        trained, frozen = (parameters / count for parameters in count_parameters(layers))
        all_trained, all_frozen = count_parameters(model)
        rest_trained, rest_frozen = all_trained - trained * count, all_frozen - frozen * count
        if model.vision.trained:  # its layers are gathered one at a time, too, and are smaller
            rest_trained -= count_parameters(model.vision.layers)[0]
        if devices == 1:
            frozen = rest_frozen = 0.0
        head = count_parameters(model.language_model.get_output_embeddings())[0]
        whole = 2 * (trained + frozen) + rest_trained + rest_frozen + head
        first = max((p.numel() for p in layers.parameters() if p.requires_grad), default=0)
        size, summed = precision.itemsize, float(_SUMMED * trained)
        return cls(whole * size + summed, summed, first * size, trained * size)


def _widest(language_model: Any) -> int:
    linear = [m for m in language_model.get_decoder().modules() if isinstance(m, nn.Linear)]
    return max((max(m.in_features, m.out_features) for m in linear), default=0)


def _vision(vision: VisionEncoder, tokens: int, precision: torch.dtype) -> float:
    """One layer's tensors, for as many pictures as a row may hold."""
    config = vision.backbone.config
    widths = 4 * config.hidden_size + 3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    return (
        _row_pictures(vision, tokens) * (vision.patches + vision.dropped) * widths * float(precision.itemsize)
    )


def told_size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
