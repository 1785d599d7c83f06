"""What every peer on transformers' ``Trainer`` is given: weights to train, settings, padded batches.

Knows torch alone, so that a peer in a virtual environment without vistune can import it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BATCH, IGNORE_INDEX = 8, -100


def set_trained(whole: Any, stage: str) -> None:
    """Train the connector of a ``LlavaForConditionalGeneration`` and, in stage ``instruct``, its LLM.

    ``linear_2`` stays frozen: it is the identity that the llava format puts behind a linear connector.
    """
    trained = ("linear_1", "language_model", "lm_head") if stage == "instruct" else ("linear_1",)
    for name, weight in whole.named_parameters():
        weight.requires_grad_(any(part in name for part in trained))


def settings(folder: str) -> dict[str, Any]:
    """Return what ``TrainingArguments`` is made with: fp32 on the CPU, no saves, no logs."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def padded(rows: Sequence[dict[str, Any]], pixels: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Pad ``rows`` to the longest.

    Args:
        rows: ``input_ids``, ``labels``, and ``image``, a picture's name.
        pixels: returns a picture by its name, (3, side, side).

    Returns:
        ``input_ids``, ``labels`` and ``attention_mask`` of (rows, longest); ``pixel_values`` of
        (rows, 3, side, side).
    """
    longest = max(len(row["input_ids"]) for row in rows)

    def fill(key: str, value: int) -> Tensor:
        return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {
        "input_ids": fill("input_ids", 0),
        "labels": fill("labels", IGNORE_INDEX),
        "attention_mask": (torch.arange(longest) < lengths).long(),
        "pixel_values": torch.stack([pixels(row["image"]) for row in rows]),
    }
