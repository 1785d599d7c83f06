"""Optimizers that hold less for each weight, against AdamW: the same data in the same order, loss for loss.

    python benchmarks/optimizers.py --json FILE [--seeds 3] [--steps 100] [--batch 16] [--rate 1e-3]

The starter's connector and LLM (2.2 million parameters) are trained in bfloat16 on instruction data of a
sample world, each record once: every loss is one of samples that were never seen. All variants of a seed
share their beginning and their order. Keys, for each variant:

- ``loss``: mean over the last fifth of the steps, and over the seeds; ``losses``: of each seed.
- ``difference``: to ``adamw`` of the same seed, mean over the seeds; ``interval``: its 95% interval
  (Student's t over the seeds).

``rounded to nearest`` is no setting of a recipe: it shows what rounding at random is for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.world.write import write_world
from vistune.model.llava import Llava
from vistune.progress import show
from vistune.recipe import Recipe, StageRecipe, load_recipe
from vistune.train import optimizers, stage_run
from vistune.train.loop import read_all_metrics, train
from vistune.train.record import processor

NEAREST = "bfloat16, rounded to nearest"
VARIANTS: dict[str, Any] = {
    "adamw": "adamw",
    "adamw_8bit": "adamw_8bit",
    "bfloat16": {"weights": "bfloat16"},
    "adamw_8bit, bfloat16": {"kind": "adamw_8bit", "weights": "bfloat16"},
    NEAREST: {"weights": "bfloat16"},
}
_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # Student's t at 97.5%, by the number of seeds
_A_PICTURE = 3  # records that a picture gives, at least


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="File to write the figures to.")
    parser.add_argument("--seeds", type=int, default=3, choices=sorted(_T))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    figures = measure(options)
    for name, row in figures["variants"].items():
        low, high = row["interval"]
        show(f"{name}: loss {row['loss']:.4f}, {row['difference']:+.4f} ({low:+.4f} to {high:+.4f})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory(prefix="vistune-optimizers-") as folder:
        make_data(Path(folder), options.steps * options.batch)
        for seed in range(options.seeds):
            for name in VARIANTS:
                run = Path(folder) / f"{name}-{seed}"
                last = train_run(name, seed, Path(folder), run, options)[-max(1, options.steps // 5) :]
                found[name].append(statistics.mean(last))
                show(f"seed {seed}, {name}: {found[name][-1]:.4f}")
    return {
        "variants": {name: compared(losses, found["adamw"]) for name, losses in found.items()},
        **{key: getattr(options, key) for key in ("seeds", "steps", "batch", "rate")},
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
    }


def make_data(folder: Path, samples: int) -> None:
    """Write a world whose instruction data are at least so many ``samples``."""
    write_world(folder, max(8, samples // _A_PICTURE + 1), 1, 0)
    found = load_coco(folder / "captions_train.json", folder / "instances_train.json", folder / "images")
    settings = GenerationSettings(seed=0, picture="first")
    generate(found, OfflineTeacher(found.categories), folder / "data", settings)


def train_run(name: str, seed: int, world: Path, out: Path, options: argparse.Namespace) -> list[float]:
    """Return the loss of every step of one run."""
    recipe = recipe_of(VARIANTS[name], seed, options)
    make = _to_nearest if name == NEAREST else optimizers.make_optimizer
    with (
        mock.patch.object(stage_run, "make_optimizer", make),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        train(recipe, world / "data", world / "images", out)
    return [row["loss"] for row in read_all_metrics(out, recipe)["instruct"]]


def recipe_of(optimizer: Any, seed: int, options: argparse.Namespace) -> Recipe:
    whole = load_recipe("starter", ["precision=bfloat16", f"seed={seed}"])
    stage = whole.stages["instruct"].model_dump(exclude_unset=True) | {
        "data": {"conversation.json": 1, "detail.json": 1, "reasoning.json": 1},
        "learning_rate": options.rate,
        "batch_size": options.batch,
        "epochs": 1,
        "max_steps": options.steps,
        "optimizer": optimizer,
    }
    return whole.model_copy(update={"stages": {"instruct": StageRecipe.model_validate(stage)}})


def _to_nearest(model: Llava, stage: StageRecipe) -> torch.optim.Optimizer:
    made = optimizers.make_optimizer(model, stage)
    made.bf16_stochastic_round = False  # type: ignore[attr-defined]
    return made


def compared(losses: list[float], baseline: list[float]) -> dict[str, Any]:
    differences = [ours - theirs for ours, theirs in zip(losses, baseline, strict=True)]
    count, mean = len(differences), statistics.mean(differences)
    reach = _T[count] * statistics.stdev(differences) / count**0.5
    return {
        "loss": round(statistics.mean(losses), 5),
        "losses": losses,
        "difference": round(mean, 5),
        "interval": [round(mean - reach, 5), round(mean + reach, 5)],
    }


if __name__ == "__main__":
    main()
