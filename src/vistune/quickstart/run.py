"""The whole chain on the sample world: world -> generate -> train -> evaluate -> report.

Each step is the same code that its own command runs. A finished step is not run again.
"""

from __future__ import annotations

import json
import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.folders import claim
from vistune.progress import say
from vistune.recipe import Recipe


@dataclass(frozen=True)
class Size:
    """How large a run is: pictures to learn from, unseen pictures to measure on."""

    train: int
    val: int


FULL = Size(train=4000, val=320)


def quickstart(out: Path, seed: int, recipe: Recipe, size: Size = FULL) -> dict[str, Any]:
    """Run every step below ``out``; go on where an interrupted run stopped.

    Leaves ``metrics.json``, ``report.html``, ``model/`` and the folders of the steps.

    Returns:
        The content of ``metrics.json``.

    Raises:
        VistuneError: ``out`` holds something else.
    """
    recipe = recipe.model_copy(update={"seed": seed})
    claim(
        out, "quickstart.json", {"seed": seed, "size": vars(size), "recipe": recipe.model_dump(mode="json")}
    )
    if (out / "metrics.json").exists():
        say(f"{out}: this run is already finished.")
        metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
        return metrics
    steps = _Steps(out)
    steps.run("world", lambda folder: _world(folder, size, seed))
    steps.run("data", lambda folder: _data(out / "world", folder, seed))
    steps.run("train", lambda folder: _train(recipe, out, folder), resumes=True)
    steps.run("evaluation", lambda folder: _evaluate(out, folder), resumes=True)
    metrics = _metrics(out, seed, steps.seconds)
    _report(out, recipe, metrics)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


class _Steps:
    """Runs steps once each; remembers in ``steps.json`` which are finished and what they took."""

    def __init__(self, out: Path) -> None:
        self._out, self._file = out, out / "steps.json"
        self.seconds: dict[str, float] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def run(self, name: str, work: Callable[[Path], None], resumes: bool = False) -> None:
        """Do ``work`` in ``out/name``; what an interrupted step left is removed, unless it ``resumes``."""
        folder = self._out / name
        if name in self.seconds:
            say(f"{name}: already finished")
            return
        if not resumes:
            shutil.rmtree(folder, ignore_errors=True)
        start = time.monotonic()
        work(folder)
        self.seconds[name] = round(time.monotonic() - start, 2)
        self._file.write_text(json.dumps(self.seconds, indent=2) + "\n", encoding="utf-8")


def _world(folder: Path, size: Size, seed: int) -> None:
    from vistune.data.world.write import write_world

    write_world(folder, size.train, size.val, seed)


def _data(world: Path, folder: Path, seed: int) -> None:
    from vistune.data.generation.generate import generate
    from vistune.data.generation.plan import GenerationSettings
    from vistune.data.sources.coco import load_coco
    from vistune.data.teachers.scripted import OfflineTeacher

    # Before the question, as the starter LLM has read its maps.
    settings = GenerationSettings(seed=seed, picture="first")
    for part in ("train", "val"):
        annotations = load_coco(
            world / f"captions_{part}.json", world / f"instances_{part}.json", world / "images"
        )
        generate(annotations, OfflineTeacher(annotations.categories), folder / part, settings)


def _train(recipe: Recipe, out: Path, folder: Path) -> None:
    from vistune.train.loop import train

    checkpoint = train(recipe, out / "data" / "train", out / "world" / "images", folder)
    shutil.rmtree(out / "model", ignore_errors=True)
    shutil.copytree(checkpoint, out / "model")


def _evaluate(out: Path, folder: Path) -> None:
    from vistune.evaluate.answering.run import Asking, evaluate
    from vistune.evaluate.benches.bench import BenchFiles

    questions = BenchFiles(data=out / "data" / "val" / "conversation.json")
    evaluate(out / "model", "own", questions, out / "world" / "images", folder, Asking(blind=True))


def _metrics(out: Path, seed: int, seconds: dict[str, float]) -> dict[str, Any]:
    import torch
    import transformers

    from vistune.quickstart.answers import ALL, read_answers

    seeing, blind = read_answers(out / "evaluation")
    return {
        "accuracy": seeing.shares[ALL].value / 100,
        "accuracy_by_kind": {kind: share.value / 100 for kind, share in seeing.by_kind.items()},
        "blind_accuracy": blind.shares[ALL].value / 100,
        "questions": len(seeing.outcomes),
        "unseen_pictures": len({outcome.image for outcome in seeing.outcomes}),
        "seconds": round(sum(seconds.values()), 2),
        "seconds_by_step": seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "seed": seed,
        "versions": {
            "vistune": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _report(out: Path, recipe: Recipe, metrics: dict[str, Any]) -> None:
    from vistune.quickstart.report import write_report

    write_report(out, recipe, metrics)
