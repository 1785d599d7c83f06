"""Adapters kept apart from the weights they are for, in peft's format: ``lora: {merge: false}``.

The folder holds ``adapter_model.safetensors`` (adapters, and the connector whole), ``adapter_config.json``,
and all of a checkpoint but the LLM's and the encoder's weights. These are in the base: the checkpoint that
the stage began with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vistune.errors import VistuneError
from vistune.model import hf, parts
from vistune.model.adapters import NAME, Adapter, adapted_name, gathered, merge
from vistune.model.llava import Llava

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PROJECTOR = "multi_modal_projector"
_PREFIX = "base_model.model."  # peft's, before a module's name in the model that it wraps
_DOWN, _UP, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True)
class Apart:
    """A trained model's adapters and connector.

    Attributes:
        tensors: by their names in peft's format, on the CPU.
        config: the content of ``adapter_config.json``.
        experts: the LLM's parameter that an adapter is for, by the adapter's name, if that does not say it.
        base: the checkpoint that they are for: a folder, a hub name or ``starter``.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    base: str
    experts: dict[str, str]

    @property
    def size(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def write(self, folder: Path, place: Path) -> dict[str, Any]:
        """Write into ``folder``, which will be moved to ``place``; return what the metadata keep of it."""
        save_file(self.tensors, folder / WEIGHTS, metadata={"format": "pt"})
        found = parts.resolve(self.base)
        config = {
            **self.config,
            "base_model_name_or_path": str(found.resolve() if isinstance(found, Path) else found),
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        base = self.base
        if Path(base).is_dir():  # relative: the run may be moved as a whole
            base = os.path.relpath(Path(base).resolve(), place.resolve().parent)
        return {"base": base, "experts": self.experts}


def take_apart(model: Llava, base: str, keep: bool = True) -> Apart | None:
    """Return the adapters and the connector of ``model``; of several processes, all must call this.

    Args:
        base: the checkpoint that they are for.
        keep: return them; where another process does, None is returned.
    """
    language_model = model.language_model
    body = language_model.base_model_prefix + "."
    tensors = {}
    for name, parameter in language_model.named_parameters():
        if ".lora_" in name:
            tensor = gathered(parameter)
            if keep:
                tensors[_PREFIX + _in_llava(_in_peft(name), body)] = tensor.contiguous()
    for name, parameter in hf.to_projector(model.connector).items():
        tensors[f"{_PREFIX}model.{_PROJECTOR}.{name}"] = gathered(parameter).contiguous()
    if not keep:
        return None
    experts = {
        _PREFIX + _in_llava(name, body): adapted_name(name, module)
        for name, module in language_model.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "parameter_name")
    }
    return Apart(tensors, _config(language_model, body), base, experts)


def base_of(folder: Path, metadata: Mapping[str, Any]) -> str:
    """Return the checkpoint that the adapters in ``folder`` are for.

    Raises:
        VistuneError: it is not there.
    """
    named = str(metadata["adapters"]["base"])
    beside = folder.resolve().parent / named
    if beside.is_dir():
        return os.path.normpath(beside)
    if not named.startswith("."):
        return named
    before = str(_read_config(folder)["base_model_name_or_path"])
    if not Path(before).is_dir():
        raise VistuneError(
            f"{folder}: holds adapters for {beside}, which is not there, nor is {before}. Move both "
            "together, or make a complete checkpoint while the base is there: vistune export."
        )
    return before


@torch.no_grad()
def put_together(model: Llava, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Merge the adapters in ``folder`` into ``model``, their base in float32, and take over the connector.

    Raises:
        VistuneError: they do not fit.
    """
    tensors, config = load_file(folder / WEIGHTS), _read_config(folder)
    scaling = float(config["lora_alpha"]) / int(config["r"])
    language_model = model.language_model
    weights = dict(language_model.named_parameters())
    body = language_model.base_model_prefix + "."
    experts = metadata["adapters"]["experts"]
    for owner in sorted(name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)):
        plain = owner.removeprefix(_PREFIX).replace("model.language_model.", body, 1)
        name = experts.get(owner, f"{plain}.weight")
        if name not in weights:
            raise VistuneError(f"{folder / WEIGHTS}: {owner} adapts {name}, which its base does not have.")
        module = language_model.get_submodule(name.rpartition(".")[0])
        adapter = Adapter(
            tensors[owner + _DOWN],
            tensors[owner + _UP],
            scaling,
            tensors.get(owner + _MAGNITUDE),
            getattr(module, "is_transposed", False),
        )
        weights[name].data = merge(weights[name].data, adapter)
    begin = f"{_PREFIX}model.{_PROJECTOR}."
    projector = {name.removeprefix(begin): x for name, x in tensors.items() if name.startswith(begin)}
    model.connector.load_state_dict(hf.from_projector(projector, model.connector))


def _in_peft(name: str) -> str:
    """Return a parameter's name in peft's files, which leave out the adapter's own."""
    return name.replace(f".{NAME}.weight", "" if "magnitude" in name else ".weight")


def _in_llava(name: str, body: str) -> str:
    return f"model.language_model.{name.removeprefix(body)}" if name.startswith(body) else name


def _config(language_model: Any, body: str) -> dict[str, Any]:
    """Return peft's configuration, its names those of ``LlavaForConditionalGeneration``."""
    config = language_model.peft_config[NAME].to_dict()
    modules = sorted(_in_llava(name, body) for name in config["target_modules"])
    parameters = [_in_llava(name, body) for name in config["target_parameters"] or []]
    changed = {
        "target_modules": modules,
        "target_parameters": parameters or None,
        "modules_to_save": [_PROJECTOR],
        "inference_mode": True,
    }
    plain: dict[str, Any] = json.loads(json.dumps({**config, **changed}, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(getattr(value, "value", value))


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VistuneError(f"{folder / CONFIG}: cannot be read: {error}") from error
    return config
