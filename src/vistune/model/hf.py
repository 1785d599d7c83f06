"""Our model as transformers' ``LlavaForConditionalGeneration``, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vistune.errors import VistuneError
from vistune.model.adapters import gathered, merged_state
from vistune.model.connector import Connector
from vistune.model.limits import select_strategy
from vistune.model.llava import Llava
from vistune.model.probe import judge
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe

ACTIVATIONS = {"linear": "linear", "mlp2x_gelu": "gelu"}
_LEAVES = ("weight", "bias")


def llava_config(model: Llava, recipe: ModelRecipe) -> Any:
    """The configuration of ``LlavaForConditionalGeneration``."""
    from transformers import LlavaConfig

    parts = [copy.deepcopy(part.config) for part in (model.vision.backbone, model.language_model)]
    for part in parts:
        part._name_or_path = ""  # where a part once lay is nobody else's business
        vars(part).pop("quantization_config", None)  # weights are saved whole
    return LlavaConfig(
        vision_config=parts[0],
        text_config=parts[1],
        image_token_index=model.image_token,
        image_seq_length=model.vision.patches,
        projector_hidden_act=ACTIVATIONS[recipe.connector],
        vision_feature_select_strategy=select_strategy(model.vision),
        vision_feature_layer=recipe.vision_layer,
        tie_word_embeddings=bool(model.language_model.config.tie_word_embeddings),
    )


def llava_state(
    model: Llava, exact: Callable[[str, Tensor], Tensor] | None = None, keep: bool = True
) -> dict[str, Tensor]:
    """Return all weights under the format's names, on the CPU, adapters merged into copies.

    Sharded weights are gathered: with several processes, all of them must call this.

    Args:
        exact: returns the weight behind a frozen one, by name: not rounded to the run's precision.
        keep: return them; where another process does, nothing is left here.
    """
    state = {}
    for name, tensor, frozen in _named(model, exact if keep else None):
        held = gathered(tensor)
        if keep:
            state[name] = exact(name, held) if exact is not None and frozen else held
    return state


def _named(model: Llava, exact: Callable[[str, Tensor], Tensor] | None) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield each weight's name, itself, and whether it is frozen."""
    for name, tensor in model.vision.backbone.state_dict(keep_vars=True).items():
        yield f"model.vision_tower.{name}", tensor, not tensor.requires_grad
    frozen = not any(parameter.requires_grad for parameter in model.connector.parameters())
    for name, tensor in to_projector(model.connector).items():
        yield f"model.multi_modal_projector.{name}", tensor, frozen
    body = model.language_model.base_model_prefix + "."

    def renamed(name: str) -> str:
        return f"model.language_model.{name.removeprefix(body)}" if name.startswith(body) else name

    of_llm = None if exact is None else lambda name, held: exact(renamed(name), held)
    for name, tensor in merged_state(model.language_model, of_llm):
        if name.startswith(body):
            yield renamed(name), tensor, not tensor.requires_grad  # a merged one is exact, and stays as it is
    head = model.language_model.get_output_embeddings().weight
    yield "lm_head.weight", head, not head.requires_grad


def to_llava(model: Llava, recipe: ModelRecipe, state: dict[str, Tensor], dtype: torch.dtype | None) -> Any:
    """``state`` (of :func:`llava_state`) as ``LlavaForConditionalGeneration``."""
    from transformers import LlavaForConditionalGeneration

    config = llava_config(model, recipe)
    with torch.device("meta"):
        whole = LlavaForConditionalGeneration(config)
    if dtype is not None:
        for part in (config, config.vision_config, config.text_config):
            part.dtype = dtype
        state = {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}
    whole.load_state_dict(state, strict=True, assign=True)
    whole.tie_weights()
    return whole


def set_generation(whole: Any, tokenizer: Any, stop: Sequence[int]) -> None:
    """Generation that ends where ours does, if one token does it, and never says a picture's placeholder."""
    from transformers import GenerationConfig

    ends = {tokenizer.eos_token_id, *(stop if len(stop) == 1 else ())}
    whole.generation_config = GenerationConfig(
        eos_token_id=min(ends) if len(ends) == 1 else sorted(ends),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[whole.config.image_token_index],
    )


def from_llava(whole: Any, recipe: ModelRecipe, image_size: int) -> Llava:
    """Our model out of ``LlavaForConditionalGeneration``; encoder and LLM are shared, not copied.

    Raises:
        VistuneError: the weights are not those of ``recipe``'s connector, or the LLM cannot be computed.
    """
    vision = VisionEncoder(whole.model.vision_tower, recipe.vision_layer, recipe.vision_select, image_size)
    language_model = _causal_lm(whole)
    connector = Connector(recipe.connector, vision.width, language_model.config.hidden_size)
    state = whole.model.multi_modal_projector.state_dict()
    if connector.kind == "linear" and not _is_identity(state["linear_2.weight"], state["linear_2.bias"]):
        raise VistuneError(
            "model.safetensors: multi_modal_projector.linear_2 is not the identity, so the connector is two "
            "linear layers without an activation, which cannot be represented."
        )
    connector.to(state["linear_1.weight"]).load_state_dict(from_projector(state, connector))
    computing = judge(language_model.config, recipe.max_length)
    return Llava(vision, connector, language_model, whole.config.image_token_index, computing)


def to_projector(connector: Connector) -> dict[str, Tensor]:
    """The format has two layers always: a single one is followed by the identity."""
    state = {name: tensor.detach() for name, tensor in connector.layers.state_dict().items()}
    first = gathered(state["0.weight"])
    second = {"2.weight": torch.eye(len(first)), "2.bias": torch.zeros(len(first))}
    second = {name: x.to(first.dtype) for name, x in second.items()}
    state = {**second, **state}
    return {
        f"linear_{number}.{leaf}": state[f"{2 * number - 2}.{leaf}"] for number in (1, 2) for leaf in _LEAVES
    }


def from_projector(state: dict[str, Tensor], connector: Connector) -> dict[str, Tensor]:
    """The inverse of :func:`to_projector`, as the state of ``connector``."""
    numbers = (1,) if connector.kind == "linear" else (1, 2)
    return {f"layers.{2 * n - 2}.{leaf}": state[f"linear_{n}.{leaf}"] for n in numbers for leaf in _LEAVES}


def _is_identity(weight: Tensor, bias: Tensor) -> bool:
    return bool(torch.equal(weight.cpu(), torch.eye(len(weight), dtype=weight.dtype)) and not bias.any())


def _causal_lm(whole: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(whole.model.language_model.config)
    setattr(language_model, language_model.base_model_prefix, whole.model.language_model)
    language_model.set_output_embeddings(whole.lm_head)
    return language_model
