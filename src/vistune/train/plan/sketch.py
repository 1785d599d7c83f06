"""A model without its weights: what a stage trains, and what that takes, from configurations alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vistune.errors import VistuneError
from vistune.model.adapters import add_adapters
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.parts import resolve
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe, StageRecipe


def sketch(recipe: ModelRecipe) -> Llava:
    """The model without its weights (on the meta device), to count on.

    Raises:
        VistuneError: a configuration cannot be read.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    connector = recipe.connector
    if recipe.start_from is not None:
        whole = _config(recipe.start_from)
        vision_config, text_config = whole.vision_config, whole.text_config
        connector = "linear" if whole.projector_hidden_act == "linear" else "mlp2x_gelu"
    else:
        vision_config, text_config = _config(recipe.vision), _config(recipe.llm)
        vision_config = getattr(vision_config, "vision_config", vision_config)
    with torch.device("meta"):
        vision = VisionEncoder(
            AutoModel.from_config(vision_config), recipe.vision_layer, recipe.vision_select
        )
        language_model = AutoModelForCausalLM.from_config(text_config)
        joined = Connector(connector, vision.width, language_model.config.hidden_size)
    return Llava(vision, joined, language_model, image_token=0)


def set_stage(model: Llava, stage: StageRecipe) -> dict[str, tuple[int, int]]:
    """Set what the stage trains, adapters included, on a :func:`sketch`.

    Returns:
        For each part, how many parameters are trained and how many are frozen.
    """
    model.set_trained(set(stage.trains))
    if stage.lora:
        with torch.device("meta"):
            add_adapters(model.language_model, stage.lora, seed=0)
    return {name: count_parameters(part) for name, part in model.parts().items()}


def count_parameters(part: nn.Module) -> tuple[int, int]:
    """How many are trained, and how many are frozen."""
    trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in part.parameters()) - trained


def _config(name: str | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(resolve(str(name)), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise VistuneError(f"{name}: its configuration cannot be read: {error}") from error
