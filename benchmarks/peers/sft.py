"""TRL's side of the peer: ``SFTTrainer`` on what :mod:`benchmarks.peers.trl` wrote.

    .venvs/trl/bin/python -m benchmarks.peers.sft TASK [--samples N] [--threads N]

Runs in TRL's own virtual environment, where vistune is not installed. Settings are TRL's defaults, except:

- those of :func:`benchmarks.peers.given.settings`, which the peers on ``Trainer`` have, too;
- ``gradient_checkpointing=False`` and ``bf16=False``, because no other variant recomputes or rounds;
- ``max_length=None``: nothing is truncated;
- the collator pads the task's own ids and labels. TRL's would render and tokenise texts in every step.

TRL refuses ``packing`` and ``padding_free`` for data sets with pictures, so batches are padded. It shuffles
samples, as ``Trainer`` does. Its chunked head, entropy and token accuracy have no switch and stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from safetensors.torch import load_file

from .given import padded, set_trained, settings
from .timed import timed


def make_trainer(task: Path, samples: int | None, folder: str) -> trl.SFTTrainer:
    """Return a trainer of stage ``instruct`` on the first ``samples`` of the task, or on all."""
    model = transformers.LlavaForConditionalGeneration.from_pretrained(
        task / "checkpoint", dtype=torch.float32
    )
    set_trained(model.train(), "instruct")
    rows = json.loads((task / "samples.json").read_text(encoding="utf-8"))[:samples]
    pictures = load_file(task / "pictures.safetensors")
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**settings(folder), gradient_checkpointing=False, bf16=False, max_length=None),
        data_collator=lambda batch: padded(batch, pictures.__getitem__),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoProcessor.from_pretrained(task / "checkpoint"),
    )


def measure(task: Path, samples: int | None) -> dict[str, Any]:
    """Train for one epoch.

    Returns:
        What :func:`timed` does; ``loss``: the mean over the steps, so the first step's if they are one batch;
        ``versions``.
    """
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(task, samples, folder)
        found = timed(lambda: losses.append(trainer.train().training_loss), len(trainer.train_dataset))
    versions = {library.__name__: library.__version__ for library in (trl, torch, transformers)}
    return {**found, "loss": losses[0], "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", type=Path)
    parser.add_argument("--samples", type=int, help="train on the first N only")
    parser.add_argument("--threads", type=int, help="PyTorch's threads; default: its own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments.task, arguments.samples)))


if __name__ == "__main__":
    main()
