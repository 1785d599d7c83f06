"""Checkpoints in Hugging Face's ``llava`` format, in and out; and pre-trained parts, joined."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vistune import __version__
from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.images import Preprocessor
from vistune.errors import VistuneError
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe
from vistune.template import Renderer, chat_template, find_template

_METADATA = "vistune.json"
_STARTER = Path(__file__).parent / "starter"
_STARTER_NAMES = {
    "starter": _STARTER / "chat",
    "starter/vision": _STARTER / "vision",
    "starter/llm": _STARTER / "llm",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to talk to it."""

    model: Llava
    tokenizer: Any
    preprocess: Preprocessor
    recipe: ModelRecipe

    @property
    def renderer(self) -> Renderer:
        return Renderer(
            find_template(self.recipe.template),
            self.tokenizer,
            self.model.image_token,
            self.model.vision.patches,
        )

    @property
    def stop(self) -> list[int]:
        """The ids that end an answer."""
        text = find_template(self.recipe.template).stop
        if text is None:
            return [self.tokenizer.eos_token_id]
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def resolve(name: str) -> Path | str:
    """The folder of an embedded part, an existing folder, or ``name`` itself (a hub name)."""
    if name in _STARTER_NAMES:
        return _STARTER_NAMES[name]
    return Path(name) if Path(name).exists() else name


def join_parts(recipe: ModelRecipe, seed: int) -> Checkpoint:
    """Join pre-trained parts with a fresh connector.

    Raises:
        VistuneError: a part cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    _hush()
    backbone = _load_part(_load_vision, recipe.vision, "vision encoder")
    language_model = _load_part(
        lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), recipe.llm, "LLM"
    )
    tokenizer, image_token = _load_tokenizer(recipe.llm, language_model)
    vision = VisionEncoder(backbone, recipe.vision_layer, recipe.vision_select)
    torch.manual_seed(seed)
    connector = Connector(recipe.connector, vision.width, language_model.config.hidden_size)
    preprocess = read_preprocessor(Path(resolve(recipe.vision)))
    return Checkpoint(Llava(vision, connector, language_model, image_token), tokenizer, preprocess, recipe)


def load_checkpoint(name: str | Path) -> Checkpoint:
    """Load a checkpoint that vistune wrote, by folder, or ``starter``.

    Raises:
        VistuneError: it is no such folder, or it is not complete.
    """
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    _hush()
    folder = Path(resolve(str(name)))
    if not (folder / _METADATA).is_file():
        raise VistuneError(
            f"{folder}: not a vistune checkpoint ({_METADATA} is missing). "
            "Pass the folder that `vistune train` wrote, or `starter`."
        )
    metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    recipe = ModelRecipe.model_validate(metadata["model"])
    whole = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    vision = VisionEncoder(whole.model.vision_tower, recipe.vision_layer, recipe.vision_select)
    connector = Connector(recipe.connector, vision.width, whole.config.text_config.hidden_size)
    connector.load_state_dict(_from_hf_connector(whole.model.multi_modal_projector.state_dict(), connector))
    model = Llava(vision, connector, _causal_lm(whole), whole.config.image_token_index)
    return Checkpoint(model.eval(), AutoTokenizer.from_pretrained(folder), read_preprocessor(folder), recipe)


def save_checkpoint(
    checkpoint: Checkpoint, folder: Path, run: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a complete checkpoint; ``folder`` appears whole or not at all.

    Args:
        run: what else to store about how it was made.
        dtype: of the stored weights; as they are where it is not given.
    """
    _hush()
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    _to_hf(checkpoint, dtype).save_pretrained(scratch)
    checkpoint.tokenizer.chat_template = chat_template(find_template(checkpoint.recipe.template))
    checkpoint.tokenizer.save_pretrained(scratch)
    checkpoint.preprocess.save(scratch)
    _write_json(scratch / "processor_config.json", _processor_config(checkpoint))
    metadata = {"vistune": __version__, "model": checkpoint.recipe.model_dump(), "run": run or {}}
    _write_json(scratch / _METADATA, metadata)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(scratch, folder)


def read_preprocessor(folder: Path) -> Preprocessor:
    """The preprocessing that ``folder`` (of a vision encoder or a checkpoint) describes."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        raise VistuneError(f"{path}: missing; it says how pictures are prepared for the vision encoder.")
    return Preprocessor.from_config(json.loads(path.read_text(encoding="utf-8")))


def _hush() -> None:
    """No progress bars of transformers: reading and writing weights is not long work here."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _load_part(load: Any, name: str, what: str) -> Any:
    try:
        return load(resolve(name))
    except (OSError, ValueError) as error:
        raise VistuneError(f"The {what} {name!r} cannot be loaded: {error}") from error


def _load_vision(path: Path | str) -> Any:
    from transformers import AutoConfig, AutoModel, CLIPVisionModel

    config = AutoConfig.from_pretrained(path)
    kind = CLIPVisionModel if config.model_type in ("clip", "clip_vision_model") else AutoModel
    return kind.from_pretrained(path, dtype=torch.float32)


def _load_tokenizer(name: str, language_model: Any) -> tuple[Any, int]:
    """The LLM's tokenizer and the id of the image token, added where the tokenizer lacks it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    if IMAGE_PLACEHOLDER not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_PLACEHOLDER]})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > language_model.get_input_embeddings().num_embeddings:
        language_model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    return tokenizer, tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER)


def _to_hf(checkpoint: Checkpoint, dtype: torch.dtype | None) -> Any:
    """The same weights as transformers' ``LlavaForConditionalGeneration``."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    model, recipe = checkpoint.model, checkpoint.recipe
    config = LlavaConfig(
        vision_config=model.vision.backbone.config,
        text_config=model.language_model.config,
        image_token_index=model.image_token,
        image_seq_length=model.vision.patches,
        projector_hidden_act="linear" if recipe.connector == "linear" else "gelu",
        vision_feature_select_strategy="default" if recipe.vision_select == "patch" else "full",
        vision_feature_layer=recipe.vision_layer,
        tie_word_embeddings=model.language_model.config.tie_word_embeddings,
    )
    for part in (config.vision_config, config.text_config):
        part._name_or_path = ""  # where a part once lay is nobody else's business
    with torch.device("meta"):
        whole = LlavaForConditionalGeneration(config)
    whole.load_state_dict(_hf_state(model), strict=True, assign=True)
    whole.generation_config.eos_token_id = checkpoint.tokenizer.eos_token_id
    whole.generation_config.pad_token_id = checkpoint.tokenizer.pad_token_id
    return whole if dtype is None else whole.to(dtype)


def _hf_state(model: Llava) -> dict[str, Tensor]:
    decoder = model.language_model.get_decoder()
    parts = {
        "model.vision_tower.": model.vision.backbone.state_dict(),
        "model.multi_modal_projector.": _to_hf_connector(model.connector),
        "model.language_model.": decoder.state_dict(),
        "lm_head.": model.language_model.get_output_embeddings().state_dict(),
    }
    return {
        prefix + name: tensor.detach().cpu()
        for prefix, state in parts.items()
        for name, tensor in state.items()
    }


def _to_hf_connector(connector: Connector) -> dict[str, Tensor]:
    """Hugging Face has two layers always: a single one is followed by the identity."""
    state = connector.layers.state_dict()
    width = state["0.weight"].shape[0]
    second = {"weight": torch.eye(width), "bias": torch.zeros(width)}
    if connector.kind != "linear":
        second = {"weight": state["2.weight"], "bias": state["2.bias"]}
    return {
        "linear_1.weight": state["0.weight"],
        "linear_1.bias": state["0.bias"],
        "linear_2.weight": second["weight"],
        "linear_2.bias": second["bias"],
    }


def _from_hf_connector(state: dict[str, Tensor], connector: Connector) -> dict[str, Tensor]:
    first = {"layers.0.weight": state["linear_1.weight"], "layers.0.bias": state["linear_1.bias"]}
    if connector.kind == "linear":
        return first
    return {**first, "layers.2.weight": state["linear_2.weight"], "layers.2.bias": state["linear_2.bias"]}


def _causal_lm(whole: Any) -> Any:
    """The LLM with its head, out of ``LlavaForConditionalGeneration``; weights are shared, not copied."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(whole.config.text_config)
    _adopt(language_model.get_decoder(), whole.model.language_model)
    _adopt(language_model.get_output_embeddings(), whole.lm_head)
    return language_model


def _adopt(module: nn.Module, source: nn.Module) -> None:
    """Take over ``source``'s parameters and buffers."""
    module.load_state_dict(source.state_dict(keep_vars=True), strict=True, assign=True)
    for name, buffer in source.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, buffer)


def _processor_config(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_PLACEHOLDER,
        "patch_size": checkpoint.model.vision.backbone.config.patch_size,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default" if checkpoint.recipe.vision_select == "patch" else "full",
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
