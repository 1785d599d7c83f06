"""Weights as files have them, read one by one: a run in bfloat16 holds rounded copies of its frozen ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vistune.model import parts

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_TOWER, _LLM, _HEAD = "model.vision_tower.", "model.language_model.", "lm_head."


class Exact:
    """Finds the exact weight behind a rounded one.

    A weight that the files name otherwise, or hold in pieces, is taken from the whole beginning, which is
    loaded for it. No wrong weight can be found: rounded, it must equal what the run holds, bit for bit.

    Args:
        places: folders or hub names whose files hold the weights.
        whole: loads all weights, under the names of :func:`vistune.model.hf.llava_state`.
    """

    def __init__(self, places: Iterable[str | Path], whole: Callable[[], dict[str, Tensor]]) -> None:
        self._files = {name: path for place in places for name, path in _weights(place).items()}
        self._load, self._whole = whole, dict[str, Tensor]()

    def __call__(self, name: str, held: Tensor) -> Tensor:
        """Return the weight ``name`` of LLaVA's format in float32; ``held`` is the run's copy."""
        if held.dtype is torch.float32 or not held.is_floating_point():
            return held
        for key in self._candidates(name):
            found = _grown(self._read(key), held)
            if found.shape == held.shape and torch.equal(found.to(held.dtype), held):
                return found.float()
        if not self._whole:
            self._whole = self._load()
        return self._whole[name].float()

    def _candidates(self, name: str) -> list[str]:
        """Return names in the files that may mean ``name``, the likeliest first."""
        leaf = name
        for begin in (_TOWER, _LLM):
            leaf = leaf.removeprefix(begin)
        leaves = [leaf, "embed_tokens.weight"] if name.startswith(_HEAD) else [leaf]  # the head may be tied
        found = [key for leaf in leaves for key in self._files if key == leaf or key.endswith("." + leaf)]
        vision = name.startswith(_TOWER)
        return sorted(found, key=lambda key: ("vision" in key) is not vision)

    def _read(self, key: str) -> Tensor:
        with safe_open(self._files[key], framework="pt") as weights:
            tensor: Tensor = weights.get_tensor(key)
        return tensor


def _grown(found: Tensor, held: Tensor) -> Tensor:
    """Return ``found`` with the rows that :func:`vistune.model.parts.load_tokenizer` may have added."""
    missing = len(held) - len(found) if found.ndim == held.ndim == 2 else 0
    if missing <= 0:
        return found
    mean = found.float().mean(0).to(found.dtype)
    return torch.cat([found, mean.expand(missing, -1)])


def _weights(place: str | Path) -> dict[str, str]:
    """Return the file of each weight; nothing if they are in another format."""
    index = parts.read_json(place, _INDEX)
    files = sorted(set(index["weight_map"].values())) if index else [_SINGLE]
    found = {}
    for path in filter(None, (parts.find_file(place, file) for file in files)):
        with safe_open(path, framework="pt") as weights:
            found.update(dict.fromkeys(weights.keys(), path))
    return found
