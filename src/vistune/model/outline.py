"""A model's outline: all of it but its weights, read and checked.

A run that loads weights and a dry run that only counts both begin here, so that both refuse the same.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from vistune.data.images import Preprocessor
from vistune.model import parts
from vistune.model.agree import check_config, check_length, check_preprocessing
from vistune.model.computing import Computing
from vistune.model.connector import Connector
from vistune.model.limits import check_decoder, select_strategy
from vistune.model.llava import Llava
from vistune.model.mistakes import check_part
from vistune.model.probe import judge
from vistune.model.stored import continued, read_metadata
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe
from vistune.template import Renderer, find_template


@dataclass(frozen=True)
class Outline:
    """What a model is made of.

    Attributes:
        vision, llm: configurations of the parts.
        recipe: with what ``start_from`` stores.
        image_token: its id in the tokenizer, which has got one.
    """

    vision: Any
    llm: Any
    tokenizer: Any
    preprocess: Preprocessor
    recipe: ModelRecipe
    image_token: int

    @cached_property
    def computing(self) -> Computing:
        """How the LLM may be computed.

        Raises:
            VistuneError: it cannot be computed as transformers does.
        """
        return judge(self.llm, self.recipe.max_length)

    def sketch(self) -> Llava:
        """Return the model without its weights (on the meta device), to count on."""
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(self.llm)
        config.vocab_size = self._vocabulary()
        with torch.device("meta"):
            vision = self.encoder()
            language_model = AutoModelForCausalLM.from_config(config)
            connector = Connector(self.recipe.connector, vision.width, config.hidden_size)
        return Llava(vision, connector, language_model, self.image_token, self.computing)

    def encoder(self) -> VisionEncoder:
        """Return the vision encoder without its weights.

        Raises:
            VistuneError: a setting does not fit it.
        """
        from transformers import AutoModel

        with torch.device("meta"):
            backbone = AutoModel.from_config(self.vision)
            recipe = self.recipe
            return VisionEncoder(backbone, recipe.vision_layer, recipe.vision_select, self.preprocess.size)

    def renderer(self, template: str) -> Renderer:
        """Return what writes conversations by ``template``.

        Raises:
            VistuneError: there is no such template, or the tokenizer cannot write it.
        """
        found = find_template(template, self.tokenizer)
        return Renderer(found, self.tokenizer, self.image_token, self.encoder().patches)

    def _vocabulary(self) -> int:
        """Rows of the embeddings, once the image token has one."""
        return parts.grown(self.llm.vocab_size, self.tokenizer)


def outline(recipe: ModelRecipe, template: str | None = None) -> Outline:
    """Read all that the model has but weights, and check that it fits together.

    Args:
        template: the first stage's, if it names one: it replaces the recipe's.

    Raises:
        VistuneError: a part cannot be read or does not fit; or the recipe contradicts ``start_from``.
    """
    if recipe.start_from is not None:
        return _of_checkpoint(recipe, recipe.start_from, template)
    assert recipe.vision and recipe.llm  # the recipe's own rule
    check_part(recipe.vision, "model.vision")
    check_part(recipe.llm, "model.llm")
    vision, llm = parts.read_config(recipe.vision), parts.read_config(recipe.llm)
    preprocess = parts.read_preprocessor(recipe.vision)
    if recipe.preprocessing == "pad":
        preprocess = preprocess.padded()
    check_preprocessing(preprocess, recipe, recipe.vision)
    name = recipe.llm
    parts.guarded(lambda: check_decoder(llm, name), f"The LLM {name!r}")
    tokenizer, image_token = parts.prepared_tokenizer(name)
    check_length(recipe, llm)
    changed = recipe.model_copy(update={"template": template}) if template else recipe
    vision = getattr(vision, "vision_config", vision)
    found = Outline(vision, llm, tokenizer, preprocess, changed, image_token)
    select_strategy(found.encoder())  # refused now, not when a trained model is to be saved
    _ = found.computing  # refused now, not at the first step
    return found


def _of_checkpoint(recipe: ModelRecipe, name: str, template: str | None) -> Outline:
    check_part(name, "model.start_from")
    changed, metadata = continued(recipe, template), read_metadata(name)
    tokenizer, preprocess = parts.read_tokenizer(name), parts.read_preprocessor(name)
    check_preprocessing(preprocess, metadata["model"], name)
    config = parts.read_config(name)
    check_config(config, tokenizer, metadata["model"], name)
    check_length(changed, config.text_config)
    tokenizer.chat_template = metadata.get("llm_chat_template")
    found = Outline(
        config.vision_config, config.text_config, tokenizer, preprocess, changed, config.image_token_index
    )
    _ = found.computing
    return found
