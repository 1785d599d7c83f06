"""A run: stage after stage, with metrics and a complete checkpoint after each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch

from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import Batch, epochs, pad
from vistune.data.pixels import PixelStore
from vistune.data.samples import Loaded, load_samples
from vistune.errors import count_by_reason, write_problems
from vistune.folders import claim
from vistune.model.checkpoint import Checkpoint, join_parts, load_checkpoint, save_checkpoint
from vistune.progress import meter, say
from vistune.recipe import Recipe, StageRecipe
from vistune.train.stage import StepResult, learning_rate, make_optimizer, optimizer_step

_PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def train(recipe: Recipe, data: Path, images: Path, out: Path) -> Path:
    """Run every stage of ``recipe``; a run that was interrupted goes on with its first unfinished stage.

    A stage writes ``out/NAME/``: ``metrics.jsonl``, ``set_aside.jsonl`` and ``checkpoint/``. As a stage
    starts from the checkpoint before it and from its own seed, a resumed run equals an uninterrupted one.

    Returns:
        The folder of the last stage's checkpoint.

    Raises:
        VistuneError: ``out`` holds a run of another recipe, or a stage cannot run.
    """
    settings = {"recipe": recipe.model_dump(mode="json"), "data": str(data), "images": str(images)}
    claim(out, "run.json", settings)
    folder: Path | None = None
    for number, (name, stage) in enumerate(recipe.stages.items(), 1):
        target = out / name / "checkpoint"
        if target.is_dir():
            say(f"stage {number} ({name}): already finished")
        else:
            checkpoint = load_checkpoint(folder) if folder else join_parts(recipe.model, recipe.seed)
            _run_stage(f"stage {number} ({name})", checkpoint, stage, recipe, data, images, out / name)
            save_checkpoint(checkpoint, target, {"recipe": recipe.model_dump(mode="json"), "stage": name})
        folder = target
    assert folder is not None  # a recipe has at least one stage
    return folder


def read_metrics(out: Path, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The logged steps of each stage."""
    return {
        name: [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        for name in recipe.stages
    }


def _run_stage(
    title: str,
    checkpoint: Checkpoint,
    stage: StageRecipe,
    recipe: Recipe,
    data: Path,
    images: Path,
    out: Path,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    loaded = load_samples(stage.data, data, images, checkpoint.renderer, recipe.model.max_length, recipe.seed)
    write_problems(out / "set_aside.jsonl", loaded.problems)
    counts = checkpoint.model.set_trained(set(stage.trains))
    steps = count_steps(stage, len(loaded.samples))
    _announce(title, stage, counts, loaded, steps)
    model = checkpoint.model.train()
    optimizer = make_optimizer(model, stage.learning_rate, stage.weight_decay)
    batches = _batches(checkpoint, stage, loaded, images, recipe.seed)
    start = time.monotonic()
    with open(out / "metrics.jsonl", "w", encoding="utf-8") as log, meter(title, steps) as progress:
        for step in range(steps):
            waited = -time.monotonic()
            micro_batches = next(batches)
            waited += time.monotonic()
            rate = learning_rate(step, steps, stage.learning_rate, stage.warmup_ratio)
            result = optimizer_step(
                model, optimizer, micro_batches, rate, stage.max_gradient_norm, _PRECISION[recipe.precision]
            )
            _log(log, step, rate, result, time.monotonic() - start, waited)
            progress.advance(f"loss {result.loss:.3f}")
    model.eval()


def count_steps(stage: StageRecipe, samples: int) -> int:
    """Optimizer steps of a stage; a last batch that is not full counts."""
    steps = math.ceil(math.ceil(samples / stage.batch_size) * stage.epochs)
    return min(steps, stage.max_steps) if stage.max_steps else steps


def _batches(
    checkpoint: Checkpoint, stage: StageRecipe, loaded: Loaded, images: Path, seed: int
) -> Iterator[list[Batch]]:
    """For each optimizer step, its micro-batches."""
    pixels = PixelStore(images, checkpoint.preprocess)
    pad_token = checkpoint.tokenizer.pad_token_id
    micro = stage.micro_batch_size or stage.batch_size
    for samples in epochs(loaded.samples, stage.batch_size, seed):
        yield [
            pad(samples[i : i + micro], pad_token, pixels).to(checkpoint.model.device)
            for i in range(0, len(samples), micro)
        ]


def _announce(title: str, stage: StageRecipe, counts: dict[str, int], loaded: Loaded, steps: int) -> None:
    trained = ", ".join(f"{name} ({count:,})" for name, count in counts.items() if count)
    frozen = ", ".join(name for name, count in counts.items() if not count)
    tokens = sum(len(sample.ids) for sample in loaded.samples)
    supervised = sum(label != IGNORE_INDEX for sample in loaded.samples for label in sample.labels)
    say(f"{title}: trains {trained}; frozen: {frozen}")
    say(
        f"{title}: {len(loaded.samples):,} samples, {tokens:,} tokens, {supervised:,} of them supervised; "
        f"{steps:,} steps of {stage.batch_size}"
    )
    for reason, count in count_by_reason(loaded.problems).items():
        say(f"{title}: set aside: {count} x {reason}")


def _log(log: TextIO, step: int, rate: float, result: StepResult, seconds: float, waited: float) -> None:
    row = {
        "step": step,
        "loss": result.loss,
        "learning_rate": rate,
        "gradient_norm": result.gradient_norm,
        "tokens": result.tokens,
        "supervised": result.supervised,
        "seconds": round(seconds, 3),
        "waited": round(waited, 4),
    }
    log.write(json.dumps(row) + "\n")
    log.flush()
