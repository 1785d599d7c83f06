"""Our side of TRL's ``SFTTrainer``: what it is given, and its start in a virtual environment of its own.

TRL is not a dependency of ours: ``make peers`` installs it. :mod:`benchmarks.peers.sft` is what runs there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vistune.model.checkpoint import Checkpoint, save_checkpoint
from vistune.template import Encoded

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venvs" / "trl" / "bin" / "python"


@dataclass(frozen=True)
class Trl:
    """``SFTTrainer`` on the task in a folder.

    Attributes:
        python: of TRL's virtual environment.
        task: what :func:`write_task` wrote.
    """

    python: Path
    task: Path

    def run(self, samples: int | None = None) -> dict[str, Any]:
        """Train on the first ``samples``, or on all, in a new process with as many threads as this one.

        Returns:
            What :func:`benchmarks.peers.sft.measure` does.
        """
        command = [str(self.python), "-m", "benchmarks.peers.sft", str(self.task)]
        command += ["--threads", str(torch.get_num_threads())]
        command += ["--samples", str(samples)] if samples else []
        # Its own packages only; and offline, as TRL reports each run to its makers otherwise.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["HF_HUB_OFFLINE"] = "1"
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        print(f"trl: {found}", file=sys.stderr)
        return found


def missing(python: Path) -> str | None:
    """Return why TRL cannot be measured and how to set it up; None if it can be."""
    if python.is_file():
        return None
    return f"trl: left out, because {python} does not exist. `make peers` sets it up."


def write_task(
    folder: Path, checkpoint: Checkpoint, samples: Sequence[Encoded], pixels: Callable[[str], Tensor]
) -> None:
    """Write a model and samples for a process that knows transformers and not vistune.

    ``checkpoint/``: a llava folder with its processor; ``samples.json``: ids, labels and the picture's name;
    ``pictures.safetensors``: preprocessed pictures by name.

    Args:
        pixels: returns a picture by its name, (3, side, side).
    """
    save_checkpoint(checkpoint, folder / "checkpoint")
    rows = [as_row(sample) for sample in samples]
    (folder / "samples.json").write_text(json.dumps(rows), encoding="utf-8")
    save_file(_pictures(rows, pixels), folder / "pictures.safetensors")


def as_row(sample: Encoded) -> dict[str, Any]:
    """Return a sample as :func:`benchmarks.peers.given.padded` takes it."""
    return {"input_ids": sample.ids, "labels": sample.labels, "image": sample.pictures[0]}


def _pictures(rows: Iterable[dict[str, Any]], pixels: Callable[[str], Tensor]) -> dict[str, Tensor]:
    return {name: pixels(name) for name in sorted({row["image"] for row in rows})}
