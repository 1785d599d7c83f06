"""What a stage would do, before anything is trained: counted, not guessed, but for memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.text import Text

from vistune.data.corpus import Corpus
from vistune.data.pack import Rows, Tree, make_rows, plant
from vistune.model.adapters import experts_note
from vistune.model.computing import PACKED, Computing
from vistune.model.llava import Llava
from vistune.recipe import Recipe, StageRecipe
from vistune.train.cautions import cautions
from vistune.train.flops import attended_pairs
from vistune.train.order import Order, count_steps
from vistune.train.plan.communication import Communication, communication
from vistune.train.plan.cost import Disk, Gpu, Work, disk_of, operations, time_lines
from vistune.train.plan.estimate import GIB, MemoryEstimate, communicates_once, estimate_stage, remedies
from vistune.train.plan.fitting import told_fit
from vistune.train.plan.preview import preview
from vistune.train.plan.sketch import set_stage

_TREES_TO_CHOOSE_FROM = 256
_SHOWN = 3  # samples


@dataclass(frozen=True)
class Padding:
    """Tokens of one epoch.

    Attributes:
        samples: of the samples themselves.
        padded: computed where each batch is padded to its longest sample.
        packed: computed by this run: where the LLM allows it, samples are packed into trees.
        pairs: of query and key, attended to in these.
    """

    samples: int
    padded: int
    packed: int
    pairs: int = field(default=0, compare=False)

    @property
    def avoided(self) -> float:
        """Share of the padded batches' tokens that are not computed."""
        return 1 - self.packed / self.padded if self.padded else 0.0


@dataclass(frozen=True)
class FileShare:
    """What a stage sees of one data file.

    Attributes:
        records: that can be trained on, and of them those that are used (``share``).
        samples: of an epoch, and of the whole stage.
        unseen: of the used ones, those that no step shows.
    """

    name: str
    records: int
    used: int
    epoch: int
    samples: int
    unseen: int

    def __str__(self) -> str:
        used = f"{self.used:,} of {self.records:,}" if self.used < self.records else f"{self.records:,}"
        return (
            f"{self.name}: {used} records; {self.epoch:,} samples an epoch, {self.samples:,} in all; "
            f"never seen: {self.unseen:,}"
        )


@dataclass(frozen=True)
class StagePlan:
    """What is told of a stage.

    Attributes:
        parameters: of each part, how many are trained and how many are frozen.
        files: what is seen of each.
        samples, supervised, pictures, padding: of the first epoch; tokens that are trained on, and pictures
            each counted once.
        steps, batch_size: optimizer steps of the whole stage, and samples of each.
        memory: an estimate, and what would help where it does not fit.
        device_memory: bytes of a device, where that is known.
        preview: see :func:`vistune.train.plan.preview.preview`.
        disk, free: bytes that are written, and that are free where they go, if that is known.
        operations, gpu: what the stage computes, and the kind of GPU to tell the time for.
        computing: how the LLM may be computed.
        notes: what else is worth knowing of the parameters.
        held_out: what the stage is measured on, in lines.
        communication: what each of several devices communicates.
    """

    name: str
    parameters: Mapping[str, tuple[int, int]]
    files: Sequence[FileShare]
    samples: int
    supervised: int
    pictures: int
    padding: Padding
    steps: int
    batch_size: int
    memory: MemoryEstimate
    device_memory: int | None
    remedies: Sequence[str]
    preview: Sequence[str | Text]
    disk: Disk
    free: int | None = None
    operations: float = 0.0
    gpu: Gpu | None = None
    precision: torch.dtype = torch.bfloat16
    computing: Computing = PACKED
    cautions: Sequence[str] = ()
    notes: Sequence[str] = ()
    held_out: Sequence[str] = ()
    communication: Communication | None = None

    def lines(self) -> Iterator[str | Text]:
        """The plan, as it is printed."""
        yield f"stage {self.name}"
        yield from (f"  {line}" for line in self._counted())
        yield from (f"  {line}" for line in self.memory.lines())
        if self.device_memory is not None:
            yield from (f"  {line}" for line in self._verdict(self.device_memory))
        if self.communication is not None:
            yield f"  {self.communication.line()}"
        if self.gpu is not None:
            devices = self.memory.devices
            yield from (f"  {x}" for x in time_lines(self.operations, self.gpu, devices, self.precision))
        yield f"  {self.disk.line(self.free)}"
        yield from self.preview

    def _counted(self) -> Iterator[str]:
        for what, number in (("trains", 0), ("frozen", 1)):
            counts = {part: count[number] for part, count in self.parameters.items() if count[number]}
            told = ", ".join(f"{part} {count:,}" for part, count in counts.items())
            yield f"{what}: {told} parameters" if counts else f"{what}: nothing"
        yield from self.notes
        yield (
            f"an epoch: {self.samples:,} samples, {self.padding.samples:,} tokens, "
            f"{self.supervised:,} of them supervised, {self.pictures:,} pictures"
        )
        yield from self.computing.lines()
        how = "trees" if self.computing.packs else "dialogues alone, with their padding"
        yield (
            f"computed: {self.padding.packed:,} tokens in {how}; padded batches of {self.batch_size:,} would "
            f"compute {self.padding.padded:,}, so {self.padding.avoided:.0%} are avoided"
        )
        yield from map(str, self.files)
        unseen, used = sum(file.unseen for file in self.files), sum(file.used for file in self.files)
        yield f"never seen in the whole stage: {unseen:,} of {used:,} records"
        yield f"steps: {self.steps:,} of {self.batch_size:,} samples"
        yield from self.held_out
        yield from (f"caution: {line}" for line in self.cautions)

    def _verdict(self, memory: int) -> Iterator[str]:
        if self.memory.fits(memory):
            yield f"fits into a device of {memory / GIB:.0f} GiB"
            return
        yield f"does not fit into a device of {memory / GIB:.0f} GiB"
        yield from self.remedies or ["no single change would do; combine lora, fewer row_tokens and devices"]


def plan_stage(
    name: str,
    recipe: Recipe,
    corpus: Corpus,
    model: Llava,
    tokenizer: Any,
    image_token: int,
    precision: torch.dtype,
    devices: int = 1,
    device_memory: int | None = None,
    gpu: Gpu | None = None,
    free: int | None = None,
    held_out: Sequence[str] = (),
) -> StagePlan:
    """Count what stage ``name`` would do with ``corpus``.

    Args:
        recipe: with what ``run.fit`` leaves open chosen for the stage.
        model: a :func:`vistune.train.plan.sketch.sketch`; it is left as it is.
        device_memory: bytes of one device; None: nothing is said about whether the stage fits.
        gpu: the kind of device to tell the time for.
        free: bytes that are free where the run goes.
        held_out: what the stage is measured on, in lines.
    """
    stage, run = recipe.stages[name], recipe.run
    steps, chosen = count_steps(stage, len(corpus.selection)), corpus.selection.epoch(0)
    order = Order(corpus.selection, corpus.groups, stage.batch_size, recipe.seed, run.share_images)
    epoch = [order.records(step) for step in range(order.steps_per_epoch)]
    shares = run.share_images and model.computing.packs
    arrays = corpus.lengths, corpus.prefixes, corpus.groups if shares else np.arange(len(corpus))
    rows = model.computing.rows
    padding = padding_avoided(*arrays, stage.batch_size, epoch, run.row_tokens, recipe.seed, rows)
    supervised = int(corpus.supervised[chosen].sum())
    share = supervised / max(1, padding.packed)
    once = False
    if devices > 1 and device_memory is not None:
        once = communicates_once(model, stage, run, precision, devices, device_memory)
    memory = estimate_stage(model, stage, run, precision, devices, share, whole_gradients=once)
    helpful: list[str] = []
    if device_memory is not None and not memory.fits(device_memory):
        helpful = list(remedies(model, stage, run, precision, devices, device_memory))
    shown = [(tree, corpus[tree.samples[0]]) for tree in choose_trees(epoch, *arrays, _SHOWN)]
    times = order.times_shown(steps)
    different = len(corpus.pictures(np.flatnonzero(times)))
    staged = copy.deepcopy(model)
    note = experts_note(model.language_model, stage.lora) if stage.lora else None
    parameters = set_stage(staged, stage)
    epochs = steps / order.steps_per_epoch
    pictures = epochs * corpus.count_pictures(epoch)
    encoded = different if run.features == "cache" else pictures
    work = Work(epochs * padding.packed, epochs * padding.pairs, epochs * supervised, pictures, encoded)
    return StagePlan(
        name,
        parameters,
        list(file_shares(stage, corpus, times)),
        len(chosen),
        supervised,
        len(corpus.pictures(chosen)),
        padding,
        steps,
        stage.batch_size,
        memory,
        device_memory,
        helpful,
        list(preview(shown, tokenizer, image_token)),
        disk_of(staged, stage, run, precision, steps, different),
        free,
        operations(staged, work, run.checkpoint_activations),
        gpu,
        precision,
        model.computing,
        list(cautions(corpus, steps, tokenizer)),
        [*([note] if note else []), *told_fit(run)],
        held_out,
        communication(staged, precision, once) if devices > 1 else None,
    )


def file_shares(stage: StageRecipe, corpus: Corpus, shown: np.ndarray) -> Iterator[FileShare]:
    """What a stage sees of each of its files.

    Args:
        shown: [R] how often the stage sees each record.
    """
    mix = corpus.selection
    for number, (name, used, epoch) in enumerate(zip(stage.data, mix.records, mix.counts, strict=True)):
        records, unseen = int(np.sum(corpus.files == number)), int(np.sum(shown[used] == 0))
        yield FileShare(name, records, len(used), epoch, int(shown[used].sum()), unseen)


def padding_avoided(
    lengths: np.ndarray,
    prefixes: np.ndarray,
    groups: np.ndarray,
    batch_size: int,
    steps: Sequence[np.ndarray],
    row_tokens: int,
    seed: int = 0,
    rows: Rows = "packed",
) -> Padding:
    """Count the tokens of one epoch.

    Args:
        lengths, prefixes: [R] of each record, in tokens.
        groups: [R], equal where records share their prefix; all different where nothing is shared.
        steps: the records of each step of an epoch, those of a group side by side (``Order.records``).
        row_tokens: room of a row; a larger tree is split, and its prefix is computed again.
        seed: of the padded batches' random order.
        rows: how the LLM may be computed; unless it is ``packed``, ``groups`` are all different.
    """
    packed, pairs = 0, 0
    for records in steps:
        for row in make_rows(rows, plant(records.tolist(), lengths, prefixes, groups), row_tokens):
            longest = max(tree.tokens for tree in row)
            packed += sum(tree.tokens for tree in row) if rows == "packed" else len(row) * longest
            pairs += attended_pairs(row)
    epoch = lengths[np.concatenate(list(steps))].astype(np.int64) if len(steps) else np.zeros(0, np.int64)
    mixed = np.random.default_rng(seed).permutation(epoch)
    batches = np.split(mixed, range(batch_size, len(mixed), batch_size)) if len(mixed) else []
    padded = sum(int(batch.max()) * len(batch) for batch in batches)
    return Padding(int(epoch.sum()), padded, packed, pairs)


def choose_trees(
    steps: Sequence[np.ndarray], lengths: np.ndarray, prefixes: np.ndarray, groups: np.ndarray, count: int = 3
) -> list[Tree]:
    """Trees to show, each of other samples: one that shares the most, if any shares, then the first ones."""
    trees: list[Tree] = []
    for records in steps:
        trees += plant(records.tolist(), lengths, prefixes, groups)
        if len(trees) >= _TREES_TO_CHOOSE_FROM:
            break
    if not trees:
        return []
    best = max(trees, key=lambda tree: (bool(tree.prefix), len(tree.branches)))
    return [best, *(tree for tree in trees if tree is not best)][:count]
