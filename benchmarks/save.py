"""What a save costs: bytes, the seconds that training waits, and those until it is on the disk.

    python benchmarks/save.py --json FILE

The starter recipe's second stage, which trains connector and LLM, runs on the sample world with a save every
few steps. ``share`` is the time that training waits for a save, of 200 steps;
``share_if_writing_stopped_training`` counts the time until it is on the disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.world.write import write_world
from vistune.recipe import RunRecipe, load_recipe
from vistune.train.loop import read_all_metrics, train
from vistune.train.record import processor
from vistune.train.saves import Saves

EVERY = 200  # steps between two saves, for the share that is told
_PICTURES, _UNTIL_SAVE, _SAVES, _WARM_UP = 120, 8, 4, 2


class Watched:
    """Measures every save of a run: when it is asked for, when training goes on, when it is on the disk."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.written: list[float] = []
        self.bytes = 0

    def __enter__(self) -> Watched:
        self._save, self._commit = Saves.save, Saves._commit
        watched = self

        def save(saves: Saves, *args: Any, **kwargs: Any) -> None:
            saves.settle()  # the save before is no part of this one
            begun = time.perf_counter()
            watched._begun = begun
            watched._save(saves, *args, **kwargs)
            watched.waited.append(time.perf_counter() - begun)

        def commit(saves: Saves, part: Path, target: Path) -> None:
            watched._commit(saves, part, target)
            watched.written.append(time.perf_counter() - watched._begun)
            watched.bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())

        Saves.save, Saves._commit = save, commit  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Saves.save, Saves._commit = self._save, self._commit  # type: ignore[method-assign]


def measure(folder: Path) -> dict[str, Any]:
    """Run the stage in ``folder``; return what its saves cost."""
    write_world(folder / "world", _PICTURES, 4, 0)
    names = (folder / "world" / f"{kind}_train.json" for kind in ("captions", "instances"))
    annotations = load_coco(*names, folder / "world" / "images")
    settings = GenerationSettings(seed=0, picture="first")
    generate(annotations, OfflineTeacher(annotations.categories), folder / "data", settings)
    recipe = load_recipe("starter")
    steps = _UNTIL_SAVE * (_SAVES + 1)
    stage = recipe.stages["instruct"].model_copy(update={"max_steps": steps, "epochs": 1000.0})
    run = RunRecipe.model_validate({**recipe.run.model_dump(), "save_steps": _UNTIL_SAVE})
    recipe = recipe.model_copy(update={"stages": {"instruct": stage}, "run": run})
    with Watched() as watched:
        last = train(recipe, folder / "data", folder / "world" / "images", folder / "run")
    rows = read_all_metrics(folder / "run", recipe)["instruct"]
    step = statistics.median(row["seconds"] for row in rows[_WARM_UP:])
    waited, written = statistics.median(watched.waited), statistics.median(watched.written)
    return {
        "bytes": watched.bytes,
        "checkpoint_bytes": (last / "model.safetensors").stat().st_size,
        "step_seconds": round(step, 4),
        "waited_seconds": round(waited, 4),
        "written_seconds": round(written, 4),
        "steps_between": EVERY,
        "share": waited / (EVERY * step),
        "share_if_writing_stopped_training": written / (EVERY * step),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="File to write the figures to.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    print(
        f"{found['bytes'] / 1e6:.1f} MB; training waits {found['waited_seconds'] * 1e3:.0f} ms, "
        f"{found['share']:.3%} of {EVERY} steps; on the disk after {found['written_seconds'] * 1e3:.0f} ms"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
