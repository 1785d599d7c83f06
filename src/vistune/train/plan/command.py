"""`vistune train --dry-run`: every stage's plan, from configurations and data alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage

import torch

from vistune.data.corpus import Corpus, load_corpus
from vistune.model.checkpoint import Checkpoint
from vistune.progress import show
from vistune.recipe import Recipe
from vistune.train.check import CACHE, check_data, check_model, check_size, settle
from vistune.train.compute import PRECISION
from vistune.train.order import Order, count_steps
from vistune.train.parallel import cpu_memory
from vistune.train.plan.cost import Gpu, find_gpu
from vistune.train.plan.dry_run import plan_stage
from vistune.train.plan.estimate import GIB
from vistune.train.plan.fitting import fit_run
from vistune.train.record import check_out
from vistune.train.validation import load_held_out, step_tokens, told_held_out


def plan_run(
    recipe: Recipe,
    data: Path,
    images: Path,
    out: Path,
    devices: int | None,
    gpu: str | None = None,
    gpu_memory: float | None = None,
) -> None:
    """Print what each stage would do. Nothing is trained; prepared data is kept in ``out`` for the run.

    Args:
        devices: how many to estimate for; None: as many as there are, or one ``gpu``.
        gpu: their kind, to tell the time for (:func:`vistune.train.plan.cost.find_gpu`); None: not told.
        gpu_memory: GiB of each; None: the kind's, or that of the devices that there are.

    Raises:
        VistuneError: what a run would refuse.
    """
    kind = find_gpu(gpu) if gpu else None
    here = 0 if kind else torch.cuda.device_count()
    count, room = devices or max(1, here), _memory(kind, gpu_memory, here)
    check_data(recipe.stages.values(), data, images)
    check_out(recipe, data, images, out)
    recipe = settle(recipe)
    outlined = check_model(recipe)
    model = outlined.sketch()
    checkpoint = Checkpoint(model, outlined.tokenizer, outlined.preprocess, outlined.recipe)
    for name, stage in recipe.stages.items():
        corpus = load_corpus(
            stage,
            data,
            images,
            outlined.renderer(recipe.template_of(name)),
            recipe.model.max_length,
            recipe.seed,
            out / CACHE,
            recipe.model.picture,
        )
        check_size(name, len(corpus.selection), count)
        # A run without a GPU computes on the CPU: nobody asks whether that fits, but `fit` does.
        kind_of, memory = ("cpu", cpu_memory(count)) if room is None else ("cuda", room)
        precision, longest = PRECISION[recipe.precision], recipe.model.max_length
        run = fit_run(model, stage, recipe.run, precision, count, memory, kind_of, longest)
        plan = plan_stage(
            name,
            recipe.model_copy(update={"run": run}),
            corpus,
            model,
            outlined.tokenizer,
            outlined.image_token,
            precision,
            count,
            room,
            kind,
            disk_usage(out / CACHE).free,
            list(_held_out(recipe, name, data, images, checkpoint, corpus, out)),
        )
        for line in plan.lines():
            show(line)


def _held_out(
    recipe: Recipe, name: str, data: Path, images: Path, checkpoint: Checkpoint, corpus: Corpus, out: Path
) -> Iterator[str]:
    """Say what stage ``name`` is measured on, if its recipe names something. That needs no weights."""
    checkpoint = checkpoint.with_recipe(template=recipe.template_of(name))
    held_out = load_held_out(recipe, name, data, images, checkpoint, out / CACHE)
    if held_out is None:
        return
    stage = recipe.stages[name]
    order = Order(corpus.selection, corpus.groups, stage.batch_size, recipe.seed, recipe.run.share_images)
    steps, each = count_steps(stage, len(corpus.selection)), step_tokens(order, corpus, stage)
    yield from told_held_out(held_out, held_out.every(steps, each), steps, each, corpus)


def _memory(gpu: Gpu | None, gpu_memory: float | None, here: int) -> int | None:
    """Bytes of a device, if they are known."""
    if gpu_memory or gpu:
        return int((gpu_memory or (gpu.memory if gpu else 0)) * GIB)
    return torch.cuda.get_device_properties(0).total_memory if here else None
