"""Checkpoints: a model with all that is needed to talk to it, joined, saved and loaded.

A checkpoint is a folder in Hugging Face's ``llava`` format, complete by itself, and ``vistune.json``, which
holds the model's recipe.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from vistune import __version__
from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.images import Preprocessor
from vistune.errors import VistuneError
from vistune.folders import check_room
from vistune.model import hf, parts
from vistune.model.adapters import quantisation
from vistune.model.agree import check_config, check_preprocessing
from vistune.model.apart import Apart, base_of, put_together
from vistune.model.connector import Connector
from vistune.model.limits import select_strategy
from vistune.model.llava import Llava
from vistune.model.mistakes import check_files
from vistune.model.outline import outline
from vistune.model.precision import stored_precision
from vistune.model.stored import METADATA, read_metadata
from vistune.model.swap import swap, undo_broken_swap
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe
from vistune.template import Renderer, find_template

_GIGABYTE = 1e9


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to talk to it.

    The tokenizer's ``chat_template`` is the LLM's own, whatever template the model is trained with.
    """

    model: Llava
    tokenizer: Any
    preprocess: Preprocessor
    recipe: ModelRecipe

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(
            find_template(self.recipe.template, self.tokenizer),
            self.tokenizer,
            self.model.image_token,
            self.model.vision.patches,
        )

    @property
    def stop(self) -> list[int]:
        """The ids that end an answer."""
        return self.renderer.stop

    def with_recipe(self, **changes: Any) -> Checkpoint:
        """The same model under another template, say, or another ``max_length``."""
        return dataclasses.replace(self, recipe=self.recipe.model_copy(update=changes))


def join_parts(
    recipe: ModelRecipe,
    seed: int,
    template: str | None = None,
    quantise: str | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Checkpoint:
    """Pre-trained parts with a fresh connector; or the checkpoint that ``recipe.start_from`` names.

    Args:
        template: the first stage's, where it names one: it takes the place of the recipe's.
        quantise: ``nf4`` for an LLM in 4 bits (QLoRA).
        dtype: of the weights in memory; None: what their files have.

    Raises:
        VistuneError: a part cannot be loaded or does not fit; or the recipe contradicts the checkpoint.
    """
    outlined = outline(recipe, template)
    if recipe.start_from is not None:
        loaded = load_checkpoint(recipe.start_from, quantise, dtype)
        loaded.model.compute(outlined.computing)
        return dataclasses.replace(loaded, recipe=outlined.recipe)
    assert recipe.vision and recipe.llm  # the recipe's own rule
    parts.hush()
    preprocess = outlined.preprocess
    backbone = parts.load_vision(recipe.vision, dtype or stored_precision(recipe.vision))
    vision = VisionEncoder(backbone, recipe.vision_layer, recipe.vision_select, preprocess.size)
    language_model = parts.load_llm(recipe.llm, quantise, dtype or stored_precision(recipe.llm))
    tokenizer, image_token = parts.load_tokenizer(recipe.llm, language_model)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        connector = Connector(recipe.connector, vision.width, language_model.config.hidden_size)
    connector = connector.to(language_model.device)
    model = Llava(vision, connector, language_model, image_token, outlined.computing)
    return Checkpoint(model, tokenizer, preprocess, outlined.recipe)


def load_checkpoint(
    name: str | Path, quantise: str | None = None, dtype: torch.dtype | None = torch.float32
) -> Checkpoint:
    """Load a checkpoint that vistune wrote, by folder, or ``starter``.

    Args:
        quantise: ``nf4`` for an LLM in 4 bits (QLoRA).
        dtype: of the weights in memory; None: what the files have.

    Raises:
        VistuneError: it is no such folder, not complete, or its parts do not fit each other.
    """
    folder, metadata = Path(parts.resolve(str(name))), read_metadata(name)
    if "adapters" in metadata:
        return _with_adapters(folder, metadata, quantise, dtype)
    checkpoint = load_llava(folder, metadata["model"], quantise, dtype or stored_precision(folder))
    checkpoint.tokenizer.chat_template = metadata.get("llm_chat_template")
    return checkpoint


def _with_adapters(
    folder: Path, metadata: dict[str, Any], quantise: str | None, dtype: torch.dtype | None
) -> Checkpoint:
    """Merge adapters into their base, in float32 whatever is asked for: nothing is rounded before."""
    if quantise:
        raise VistuneError(
            f"{folder}: holds adapters, which cannot be merged into weights in 4 bits. Make a complete "
            f"checkpoint first: vistune export {folder} --out FOLDER --dtype float32."
        )
    base = load_checkpoint(base_of(folder, metadata))
    put_together(base.model, folder, metadata)
    if dtype not in (None, torch.float32):
        base.model.to(dtype)
    base.tokenizer.chat_template = metadata.get("llm_chat_template")
    return dataclasses.replace(base, recipe=metadata["model"])


def is_ours(name: str | Path) -> bool:
    """Whether vistune wrote the checkpoint at ``name``."""
    return (Path(parts.resolve(str(name))) / METADATA).is_file()


def load_llava(
    name: str | Path,
    recipe: ModelRecipe,
    quantise: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Checkpoint:
    """Load a folder or hub name in Hugging Face's ``llava`` format, strictly, as ``recipe`` describes it."""
    from transformers import LlavaForConditionalGeneration

    parts.hush()
    if isinstance(place := parts.resolve(str(name)), Path) and place.is_dir():
        check_files(place)
    tokenizer = parts.read_tokenizer(name)
    preprocess = parts.read_preprocessor(name)
    check_preprocessing(preprocess, recipe, str(name))
    extra = quantisation(("vision_tower", "multi_modal_projector", "lm_head")) if quantise else {}
    config = parts.read_config(name)
    check_config(config, tokenizer, recipe, str(name))
    whole = parts.load_whole(LlavaForConditionalGeneration, name, config=config, dtype=dtype, **extra)
    model = hf.from_llava(whole, recipe, preprocess.size)
    return Checkpoint(model.eval(), tokenizer, preprocess, recipe)


def save_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    run: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    state: dict[str, Tensor] | None = None,
    apart: Apart | None = None,
) -> None:
    """Write a complete checkpoint; ``folder`` appears, or is replaced, whole or not at all.

    Adapters are merged into copies: the model goes on as it was.

    Args:
        run: what else to store about how it was made.
        dtype: of the stored weights; as they are where it is not given.
        state: the weights (:func:`vistune.model.hf.llava_state`), where several processes gathered them.
        apart: the adapters and the connector, to be written instead of all weights.

    Raises:
        VistuneError: it could not be written (a full disk); what was at ``folder`` is still there.
    """
    parts.hush()
    undo_broken_swap(folder)
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    if apart is None:
        state = state if state is not None else hf.llava_state(checkpoint.model)
    size = apart.size if apart else _size(checkpoint, state or {}, dtype)
    try:
        scratch.mkdir(parents=True)
        check_room(scratch, size)
        more = {}
        if apart:
            hf.llava_config(checkpoint.model, checkpoint.recipe).save_pretrained(scratch)
            more = {"adapters": apart.write(scratch, folder)}
        else:
            whole = hf.to_llava(checkpoint.model, checkpoint.recipe, state or {}, dtype)
            hf.set_generation(whole, checkpoint.tokenizer, checkpoint.stop)
            whole.save_pretrained(scratch)
        _write_rest(checkpoint, scratch, {"run": run or {}, **more})
        swap(scratch, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise VistuneError(
            f"{folder}: the checkpoint could not be written ({error}). Free {size / _GIGABYTE:.1f} GB there, "
            "or choose another `--out`; earlier checkpoints are untouched."
        ) from error


def _size(checkpoint: Checkpoint, state: dict[str, Tensor], dtype: torch.dtype | None) -> int:
    tied = checkpoint.model.language_model.config.tie_word_embeddings  # then the head is not stored
    stored = [x for name, x in state.items() if not (tied and name == "lm_head.weight")]
    return sum(x.numel() * (dtype.itemsize if dtype else x.element_size()) for x in stored)


def _write_rest(checkpoint: Checkpoint, folder: Path, more: dict[str, Any]) -> None:
    """Write all of a checkpoint but its weights and their configuration."""
    checkpoint.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(checkpoint.renderer.chat_template, encoding="utf-8")
    checkpoint.preprocess.save(folder)
    vision = checkpoint.model.vision
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_PLACEHOLDER,
        "patch_size": vision.backbone.config.patch_size,
        "num_additional_image_tokens": vision.specials,
        "vision_feature_select_strategy": select_strategy(vision),
    }
    _write_json(folder / "processor_config.json", processor)
    metadata = {
        "vistune": __version__,
        "model": checkpoint.recipe.model_dump(exclude_none=True),
        "llm_chat_template": checkpoint.tokenizer.chat_template,
        **more,
    }
    _write_json(folder / METADATA, metadata)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
