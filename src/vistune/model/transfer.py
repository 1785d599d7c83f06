"""Plain LLaVA folders in and out: other people's checkpoints become ours, ours anyone's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from vistune.errors import VistuneError
from vistune.model import parts
from vistune.model.agree import check_length
from vistune.model.checkpoint import Checkpoint, load_checkpoint, load_llava, save_checkpoint
from vistune.model.limits import check_decoder, check_logits
from vistune.model.mistakes import check_part
from vistune.model.vision import special_tokens
from vistune.progress import say
from vistune.recipe import ModelRecipe
from vistune.template import TEMPLATE_NAMES
from vistune.template.begin import leave_to_template

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_LONGEST = 2048
_NESTED = ("clip_vision_model", "siglip_vision_model")  # encoders whose weights lie one level deeper there
_SHORT, _LONG = "vision_tower.", "vision_tower.vision_model."


def import_checkpoint(source: str, out: Path, template: str, max_length: int | None = None) -> Path:
    """Make a checkpoint of ours from a folder or hub name in Hugging Face's ``llava`` format.

    Connector, layer, features and preprocessing are read from its files; only how its conversations were
    written is nowhere told, and must be said. Weights keep their precision.

    Args:
        template: how the model was trained to read conversations, for example ``vicuna_v1``.
        max_length: longest sample in tokens; at most, and by default up to 2048, what the LLM takes.

    Raises:
        VistuneError: ``out`` is there already, or the model has something that we cannot represent.
    """
    if template not in TEMPLATE_NAMES:
        raise VistuneError(f"template {template!r}: choose one of: {', '.join(TEMPLATE_NAMES)}.")
    _refuse_existing(out)
    check_part(source)
    config = parts.read_config(source)
    if config.model_type != "llava":
        raise VistuneError(
            f"{source}: its model_type is {config.model_type!r}; only 'llava' can be imported "
            "(LLaVA, LLaVA-1.5 and models built like them)."
        )
    check_decoder(config.text_config, source)
    most = getattr(config.text_config, "max_position_embeddings", None) or _LONGEST
    recipe = ModelRecipe(
        start_from=_portable(source),
        template=template,
        connector=_connector(source, config),
        vision_layer=_layer(source, config),
        vision_select=_select(source, config),
        preprocessing="pad" if parts.read_preprocessor(source).kind == "pad" else "square",
        max_length=max_length or min(_LONGEST, most),
    )
    check_length(recipe, config.text_config)
    checkpoint = load_llava(source, recipe, dtype=config.dtype or torch.float32)
    check_logits(checkpoint.model.language_model, source)
    save_checkpoint(checkpoint, out, {"imported": _portable(source)})
    return out


def export_checkpoint(source: str, out: Path, dtype: str = "float16") -> Path:
    """Write the checkpoint at ``source`` by :func:`write_export`.

    Raises:
        VistuneError: as there; or ``source`` is no checkpoint of ours.
    """
    _check_export(out, dtype)
    return write_export(load_checkpoint(source, dtype=DTYPES[dtype]), out, dtype)


def write_export(checkpoint: Checkpoint, out: Path, dtype: str = "float16") -> Path:
    """Write a checkpoint as a plain LLaVA folder that tells nothing of where and how it was made.

    ``vistune.json`` stays in it, without the run; transformers does not mind. BOS is written by its chat
    template alone: the tokenizer adds none, so that no tool says it twice.

    Args:
        dtype: ``float16``, ``bfloat16`` or ``float32``.

    Raises:
        VistuneError: ``out`` is there already, or the tokenizer cannot be kept from adding BOS.
    """
    _check_export(out, dtype)
    named = {name: getattr(checkpoint.recipe, name) for name in ("vision", "llm", "start_from")}
    portable = {name: value and _portable(value) for name, value in named.items()}
    begin = leave_to_template(checkpoint.tokenizer)
    save_checkpoint(checkpoint.with_recipe(**portable), out, dtype=DTYPES[dtype])
    _settle_tokenizer(out / "tokenizer_config.json")
    if checkpoint.model.vision.backbone.config.model_type in _NESTED:
        _nest_encoder(out)
    say(f"{out}: load it with transformers 5 or newer.")
    if begin:
        say(f"The chat template writes {begin}, the tokenizer does not: prompts of your own begin with it.")
    return out


def _check_export(out: Path, dtype: str) -> None:
    if dtype not in DTYPES:
        raise VistuneError(f"dtype {dtype!r}: choose one of: {', '.join(DTYPES)}.")
    _refuse_existing(out)


def _settle_tokenizer(config: Path) -> None:
    """For llama.cpp: it goes by ``add_bos_token``, which transformers does not save, and takes an empty
    ``chat_template`` for the template."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    if settings.get("chat_template") is None:
        settings.pop("chat_template", None)
    _write_json(config, {**settings, "add_bos_token": False})


def _nest_encoder(folder: Path) -> None:
    """Name an encoder's weights as the hub's LLaVA checkpoints do, which engines with a LLaVA of their own go
    by; transformers 5.6 and newer read both names, and write the shorter one."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            tensors = {_nested(name): weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
        part = path.with_suffix(".part")
        save_file(tensors, part, metadata={"format": "pt"})
        part.replace(path)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {_nested(name): file for name, file in content["weight_map"].items()}
        _write_json(index, content)


def _nested(name: str) -> str:
    return _LONG + name.removeprefix(_SHORT) if name.startswith(_SHORT) and _LONG not in name else name


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def _connector(source: str, config: Any) -> Any:
    kinds = {"gelu": "mlp2x_gelu", "linear": "linear"}
    if config.projector_hidden_act not in kinds:
        raise VistuneError(
            f"{source}/config.json: projector_hidden_act {config.projector_hidden_act!r} cannot be "
            f"represented; known are: {', '.join(kinds)}."
        )
    if not config.multimodal_projector_bias:
        raise VistuneError(f"{source}/config.json: a projector without bias cannot be represented.")
    return kinds[config.projector_hidden_act]


def _layer(source: str, config: Any) -> int:
    if not isinstance(config.vision_feature_layer, int):
        raise VistuneError(
            f"{source}/config.json: vision_feature_layer {config.vision_feature_layer} reads several layers; "
            "one can be represented."
        )
    return config.vision_feature_layer


def _select(source: str, config: Any) -> Any:
    specials = special_tokens(config.vision_config)
    if config.vision_feature_select_strategy == "full":
        return "cls_patch" if specials else "patch"
    if specials != 1:
        raise VistuneError(
            f"{source}/config.json: vision_feature_select_strategy 'default' drops one token of a "
            f"{config.vision_config.model_type}, which has {specials} before its patches: it cannot be "
            "represented."
        )
    return "patch"


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise VistuneError(f"{out}: is there already. Choose another folder, or remove it.")


def _portable(name: str) -> str:
    """A hub name as it is; of a folder its own name only."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name
