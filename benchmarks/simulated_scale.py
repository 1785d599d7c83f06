"""The shipped 7B and 13B recipes on 8 and on 64 processes, simulated, beside the dry run's estimate.

    python benchmarks/simulated_scale.py --json FILE

No weight is loaded and nothing is communicated: ``benchmarks/fake_step.py`` takes a step with the training
code itself, all layers included, on tensors that have a shape and no storage. Each process computes two full
rows, the second of which meets the gradients of the first. The parts have the shapes of CLIP ViT-L/14 and of
Vicuna; the GPUs have the memory that the dry run takes for ``--gpu a100``, and ``run.fit`` chooses for it.

What is told of a process are the bytes at the worst moment of the step: its share of ``parameters``,
``gradients`` and ``optimizer`` state; what is ``gathered`` for a while, layers of weights and of gradients;
and ``activations``. ``communicated`` are the outputs of all-gathers and the inputs of reduce-scatters. All
are process 0's; if the last one holds less, this is told, too. The benchmark fails where an estimate is off
by more than 5%; of what is gathered, by more than 5% of all: what counts as gathered, and what as a gradient
already, changes in the middle of a layer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vistune.model.llava import Llava
from vistune.recipe import Recipe, load_recipe
from vistune.train.compute import PRECISION
from vistune.train.plan.communication import communication
from vistune.train.plan.cost import find_gpu
from vistune.train.plan.estimate import GIB, MemoryEstimate, communicates_once, estimate_stage
from vistune.train.plan.fitting import fit_run
from vistune.train.plan.sketch import set_stage

try:
    from benchmarks.fake_step import SUPERVISED, Case, held, simulate
    from benchmarks.models import random_model
except ModuleNotFoundError:  # run by its path
    from fake_step import SUPERVISED, Case, held, simulate
    from models import random_model

RECIPES, SIZES = ("llava-1.5-7b", "llava-1.5-13b", "llava-7b", "llava-13b"), (8, 64)
ROWS = 2
TOLERANCE = 0.05
_ENCODER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_VOCABULARY = 32064  # of Vicuna, grown for the image token
_WIDTHS = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}
_ITEMS = {  # how the estimate's items begin
    "parameters": ("weights that are",),
    "gradients": ("their gradients", "gradients of all"),
    "optimizer": ("AdamW",),
    "gathered": ("layers gathered", "gradients of a layer"),
    "activations": ("activations", "logits"),
}


@dataclass(frozen=True)
class Shapes:
    """What a model is made of.

    Attributes:
        vision, llm: of ``CLIPVisionConfig`` and ``LlamaConfig``.
    """

    connector: str
    vision: dict[str, Any]
    llm: dict[str, Any]

    def make(self) -> Llava:
        with torch.device("meta"):
            return random_model(self.connector, 0, self.vision, self.llm)


def shapes_of(recipe: Recipe) -> Shapes:
    """Return the shapes of the parts that a shipped recipe names."""
    vision, llm = recipe.model.vision or "", recipe.model.llm or ""
    width, inner, layers, heads = next(found for size, found in _WIDTHS.items() if f"-{size}-" in llm)
    return Shapes(
        recipe.model.connector,
        {**_ENCODER, "image_size": 336 if vision.endswith("-336") else 224},
        {
            "vocab_size": _VOCABULARY,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        },
    )


def compare(name: str, recipe: Recipe, stage_name: str, shapes: Shapes, size: int) -> dict[str, Any]:
    """Simulate a stage on process 0 of ``size``, and estimate it."""
    stage, longest = recipe.stages[stage_name], recipe.model.max_length
    precision = PRECISION[recipe.precision]
    sketch, memory = shapes.make(), int(find_gpu("a100").memory * GIB)
    run = fit_run(sketch, stage, recipe.run, precision, size, memory, "cuda", longest)
    run = run.model_copy(update={"compile": False})  # nothing is computed
    once = communicates_once(sketch, stage, run, precision, size, memory)
    memory_estimate = estimate_stage(sketch, stage, run, precision, size, SUPERVISED, once)
    set_stage(sketch, stage)
    estimated = {**by_kind(memory_estimate), "total": memory_estimate.total}
    estimated["communicated"] = communication(sketch, precision, once).step(ROWS)
    case = Case(shapes.make, stage, run, precision, 0, size, ROWS, once)
    found = simulate(case)
    simulated = {**found.peak, "total": found.total, "communicated": found.communicated}
    return {
        "recipe": name,
        "stage": stage_name,
        "processes": size,
        "rows": ROWS,
        "row_tokens": run.row_tokens,
        "checkpoint_activations": run.checkpoint_activations,
        "gradients_communicated": "once a step" if once else "after every row",
        "simulated": simulated,
        "estimated": {kind: round(value) for kind, value in estimated.items()},
        "difference": {kind: estimated[kind] / simulated[kind] - 1 for kind in simulated},
        "held_by_first": found.held,
        "held_by_last": held(replace(case, rank=size - 1)),
    }


def by_kind(estimate: MemoryEstimate) -> dict[str, float]:
    """Sum up an estimate's items.

    Raises:
        StopIteration: an item has another name than those that are known here.
    """
    sums = dict.fromkeys(_ITEMS, 0.0)
    for name, value in estimate.items:
        sums[next(kind for kind, begins in _ITEMS.items() if name.startswith(begins))] += value
    return sums


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """What is printed of a stage."""
    yield (
        f"{figures['recipe']} {figures['stage']}, process 0 of {figures['processes']}: "
        f"{figures['rows']} rows of {figures['row_tokens']:,} tokens, activations "
        f"{'computed again' if figures['checkpoint_activations'] else 'kept'}; "
        f"gradients are communicated {figures['gradients_communicated']}"
    )
    for kind, found in figures["simulated"].items():
        estimated, difference = figures["estimated"][kind], figures["difference"][kind]
        yield f"  {kind:12} {found / GIB:8.3f} GiB, estimate {estimated / GIB:8.3f} GiB {difference:+7.2%}"
    first, last = figures["held_by_first"], figures["held_by_last"]
    less = [f"{kind} {first[kind] - last[kind]:,}" for kind in first if first[kind] != last[kind]]
    if less:
        yield f"  process {figures['processes'] - 1} holds fewer bytes: {', '.join(less)}"


def differences(figures: dict[str, Any]) -> Iterator[float]:
    """How far the estimate is off, relative to each figure; for what is gathered, to the total."""
    for kind, off in figures["difference"].items():
        simulated = figures["simulated"]
        yield abs(off) * (simulated["gathered"] / simulated["total"] if kind == "gathered" else 1.0)


def work(item: tuple[str, str, int]) -> dict[str, Any]:
    name, stage, size = item
    recipe = load_recipe(name)
    return compare(name, recipe, stage, shapes_of(recipe), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="File to write the figures to.")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--processes", nargs="+", type=int, default=SIZES, help="How many are simulated.")
    parser.add_argument("--jobs", type=int, default=2, help="Cores to use.")
    options = parser.parse_args()
    items = [
        (name, stage, size)
        for name in options.recipes
        for stage in load_recipe(name).stages
        for size in options.processes
    ]
    every = []
    # Processes of their own: none has a process group when it begins, nor leaves one to this one.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for figures in pool.map(work, items):
            print("\n".join(lines(figures)), flush=True)
            every.append(figures)
    if options.json:
        options.json.write_text(json.dumps(every, indent=2) + "\n", encoding="utf-8")
    worst = max(off for figures in every for off in differences(figures))
    print(f"largest difference: {worst:.2%}")
    if worst > TOLERANCE:
        sys.exit(f"an estimate is off by more than {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()
