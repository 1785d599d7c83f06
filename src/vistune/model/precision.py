"""The precision that weights are stored in, read from their files and not from what a configuration says."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from vistune.model import parts

_SAFE = ("model.safetensors.index.json", "model.safetensors")
_PICKLED = ("pytorch_model.bin.index.json", "pytorch_model.bin")
_NAMES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def stored_precision(name: str | Path) -> torch.dtype:
    """Return the precision of the weights of a folder or hub name: in it they are held without loss.

    It is float32 if they have several, or cannot be looked into.
    """
    try:
        found = {dtype for file in _files(name, *_SAFE) for dtype in _of_safetensors(file)}
        found = found or {dtype for file in _files(name, *_PICKLED) for dtype in _of_pickled(file)}
    except (OSError, RuntimeError, ValueError):
        return torch.float32  # loading tells what is wrong with them
    return found.pop() if len(found) == 1 and found < {torch.float16, torch.bfloat16} else torch.float32


def _files(name: str | Path, index: str, single: str) -> list[str]:
    listed = parts.read_json(name, index)
    files = sorted(set(listed["weight_map"].values())) if listed else [single]
    return [path for file in files if (path := parts.find_file(name, file))]


def _of_safetensors(path: str) -> set[torch.dtype]:
    with safe_open(path, framework="pt") as weights:
        names = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    return {_NAMES[name] for name in names & _NAMES.keys()}


def _of_pickled(path: str) -> set[torch.dtype]:
    weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
