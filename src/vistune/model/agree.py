"""Whether a checkpoint's files, and its recipe, agree with each other."""

from __future__ import annotations

from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.images import Preprocessor
from vistune.errors import VistuneError
from vistune.model.hf import ACTIVATIONS
from vistune.model.vision import special_tokens
from vistune.recipe import ModelRecipe


def check_config(config: Any, tokenizer: Any, recipe: ModelRecipe, name: str) -> None:
    """See that a loaded checkpoint's files agree with each other.

    Raises:
        VistuneError: configuration, tokenizer and recipe do not belong together.
    """
    if config.model_type != "llava":
        raise VistuneError(f"{name}/config.json: model_type is {config.model_type!r}, expected 'llava'.")
    patches_only = recipe.vision_select == "patch" and special_tokens(config.vision_config) > 0
    wanted = {
        "projector_hidden_act": ACTIVATIONS[recipe.connector],
        "vision_feature_layer": recipe.vision_layer,
        "vision_feature_select_strategy": "default" if patches_only else "full",
    }
    for setting, value in wanted.items():
        if getattr(config, setting) != value:
            raise VistuneError(
                f"{name}/config.json: {setting} is {getattr(config, setting)!r}, but vistune.json's recipe "
                f"makes it {value!r}. Use the files that were saved together."
            )
    vocabulary, rows = tokenizer.get_vocab(), config.text_config.vocab_size
    if vocabulary.get(IMAGE_PLACEHOLDER) != config.image_token_index:
        raise VistuneError(
            f"{name}/tokenizer.json: {IMAGE_PLACEHOLDER} has the id {vocabulary.get(IMAGE_PLACEHOLDER)}, but "
            f"image_token_index in config.json is {config.image_token_index}. Use the tokenizer that was "
            "saved with the weights."
        )
    if max(vocabulary.values()) >= rows:
        raise VistuneError(
            f"{name}/tokenizer.json: ids up to {max(vocabulary.values())}, but vocab_size in config.json is "
            f"{rows}. Use the tokenizer that was saved with the weights."
        )


def check_length(recipe: ModelRecipe, config: Any) -> None:
    """Raises VistuneError where the LLM takes fewer tokens than a sample may have."""
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and recipe.max_length > most:
        raise VistuneError(
            f"model.max_length: {recipe.max_length} tokens, but the LLM takes {most}. Lower the setting."
        )


def check_preprocessing(preprocess: Preprocessor, recipe: ModelRecipe, name: str) -> None:
    """Raises VistuneError where the stored preprocessing and the recipe's are different kinds."""
    if (preprocess.kind == "pad") != (recipe.preprocessing == "pad"):
        raise VistuneError(
            f"{name}/preprocessor_config.json: pictures are made square by {preprocess.kind!r}, but "
            f"model.preprocessing is {recipe.preprocessing!r}. Use the files that were saved together, or "
            "name the other in the recipe."
        )
