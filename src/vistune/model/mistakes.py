"""What people name by mistake instead of a model: said in one line, with what to take."""

from __future__ import annotations

import difflib
import json
import zipfile
from pathlib import Path
from typing import Any

from vistune.errors import VistuneError
from vistune.model import hub, parts

_LFS = b"version https://git-lfs.github.com/spec/"
_WEIGHTS = ("*.safetensors", "*.bin")
_MOST_JSON = 1 << 26  # bytes; a tokenizer has up to 32 MB
_EMBEDDED = ("starter", "starter/vision", "starter/llm")
_ORIGINAL = ("mm_vision_tower", "mm_projector_type", "mm_hidden_size")  # settings of LLaVA's own repository


def check_part(name: str, setting: str = "") -> None:
    """See that ``name`` may be a model in Hugging Face's format; its weights are not loaded.

    Args:
        setting: the recipe's setting that names it, for example ``model.llm``; empty for an argument.

    Raises:
        VistuneError: it is something else: the message says what, and what to take.
    """
    place = parts.resolve(name)
    if isinstance(place, Path):
        _check_path(place)
        config = parts.read_json(name, "config.json")
    else:
        _refuse_missing_folder(name, setting)
        config = _asked(name, setting)
    _check_config(name, config or {})


def check_files(folder: Path) -> None:
    """Refuse a folder with a file that was not downloaded, or not whole.

    Raises:
        VistuneError: it names the file.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise VistuneError(
                    f"{path}: a git-lfs pointer instead of the file. Run `git lfs pull` in {folder}, or "
                    "download the files from the hub's page."
                )
        damage = _damage(path)
        if damage:
            raise VistuneError(f"{path}: {damage}. Copy or download this file again.")
    for index in folder.glob("*.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if missing := sorted(file for file in named if not (folder / file).exists()):
            raise VistuneError(
                f"{folder / missing[0]}: missing; {index.name} names {len(named)} files of weights. "
                "Copy or download it, too."
            )


def _damage(path: Path) -> str:
    """What shows, without reading all of it, that a file is not whole; empty if nothing does."""
    if path.suffix == ".safetensors":
        return _short(path)
    if path.name.startswith("pytorch_model") and path.suffix == ".bin":
        return "" if zipfile.is_zipfile(path) else "truncated, or not PyTorch's format"
    if path.suffix == ".json" and path.stat().st_size <= _MOST_JSON:
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"truncated or damaged: not valid JSON ({error})"
    return ""


def _short(path: Path) -> str:
    """The header of a safetensors file says how long the file is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return f"truncated: {size:,} bytes, fewer than its header"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "not a safetensors file: its header cannot be read"
    whole = 8 + length + max(ends, default=0)
    return f"truncated: {size:,} bytes of {whole:,}" if size < whole else ""


def _check_path(place: Path) -> None:
    if place.is_file():
        if place.suffix == ".gguf":
            raise VistuneError(_gguf(place))
        raise VistuneError(f"{place}: a file. Name the folder that holds config.json and weights.")
    check_files(place)
    if (place / "config.json").is_file():
        return
    if (place / "adapter_config.json").is_file():
        base = (parts.read_json(place, "adapter_config.json") or {}).get("base_model_name_or_path")
        raise VistuneError(_adapter(str(place), base))
    if found := next(place.glob("*.gguf"), None):
        raise VistuneError(_gguf(found))
    inner = next((path.parent for path in sorted(place.glob("*/config.json"))), None)
    hint = f" Did you mean {inner}?" if inner else ""
    raise VistuneError(f"{place}: no config.json, so not a model in Hugging Face's format.{hint}")


def _refuse_missing_folder(name: str, setting: str) -> None:
    """Refuse what can only be meant as a folder here; ``owner/name`` may be a name on the hub."""
    first, *rest = name.split("/")
    if first == "starter":
        near = difflib.get_close_matches(name, _EMBEDDED, n=1, cutoff=0)[0]
        raise VistuneError(f"{name}: no embedded part ({', '.join(_EMBEDDED)}). Did you mean {near}?")
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        raise VistuneError(_gguf(path))
    if first in ("", ".", "..", "~") or len(rest) > 1 or "\\" in name or (rest and Path(first).is_dir()):
        there = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        similar = difflib.get_close_matches(path.name, there, n=1)
        hint = f" Did you mean {path.parent / similar[0]}?" if similar else ""
        expanded = f" Did you mean {path}?" if first == "~" and path.exists() else hint
        raise VistuneError(f"{name}: no such folder.{expanded} {_remedy(setting)}.")


def _asked(name: str, setting: str) -> dict[str, Any]:
    """The configuration of a hub name."""
    try:
        config = parts.read_json(name, "config.json")
        adapter = None if config else parts.read_json(name, "adapter_config.json")
    except VistuneError as error:
        raise VistuneError(
            f"{name}: neither a folder here nor a model on the hub that can be read. Check the name, log in "
            f"with `hf auth login` if it is gated or private. Otherwise: {_remedy(setting)}."
        ) from error
    if config is None and adapter is None and not hub.reachable():
        raise VistuneError(
            f"{name}: not a folder here, not downloaded before, and the hub ({hub.host()}) cannot be "
            f"reached. {_remedy(setting)} that holds it, or connect to the network."
        )
    if config is None and adapter is not None:
        raise VistuneError(_adapter(name, adapter.get("base_model_name_or_path")))
    if config is None:
        raise VistuneError(f"{name}: holds no config.json, so it is not a model in Hugging Face's format.")
    return config


def _check_config(name: str, config: dict[str, Any]) -> None:
    architecture = next(iter(config.get("architectures") or []), "")
    if architecture in ("LlavaLlamaForCausalLM", "LlavaMistralForCausalLM") or any(
        setting in config for setting in _ORIGINAL
    ):
        raise VistuneError(
            f"{name}: a {architecture or 'LLaVA'} in the layout of LLaVA's own repository, not in Hugging "
            "Face's. Take the same model converted, such as llava-hf/llava-1.5-7b-hf, make a checkpoint of "
            "it with `vistune import`, and name that in model.start_from."
        )
    quantised = config.get("quantization_config") or {}
    if quantised:
        method = quantised.get("quant_method", "unknown")
        raise VistuneError(
            f"{name}: its weights are quantised already ({method}), and cannot be trained. Take the original "
            "weights; `lora: {quantise: nf4}` quantises them while adapters are trained."
        )


def _remedy(setting: str) -> str:
    return f"Set {setting}=FOLDER" if setting else "Name a FOLDER"


def _adapter(name: str, base: str | None) -> str:
    return (
        f"{name}: a LoRA adapter, not a whole model. Take its base{f' ({base})' if base else ''}, or merge "
        "the adapter into it (peft: merge_and_unload, save_pretrained) and name that folder."
    )


def _gguf(path: Path) -> str:
    return (
        f"{path}: a GGUF file, made for llama.cpp; it cannot be trained. Take the model it was made from, in "
        "Hugging Face's format (config.json and safetensors)."
    )
