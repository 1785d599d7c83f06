"""How a stage's model is computed: the precision of what is frozen, and what is traded for memory or time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from vistune.errors import VistuneError
from vistune.model.layers import decoder_layers
from vistune.model.llava import Llava
from vistune.recipe import RunRecipe

PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def set_up(
    model: Llava, run: RunRecipe, precision: torch.dtype, trained: torch.dtype = torch.float32
) -> None:
    """Prepare a model whose trained parts are set: frozen weights take the run's precision, trained ones
    ``trained``, and layers are checkpointed or, of the decoder, compiled where the recipe says so."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(trained if parameter.requires_grad else precision)
    if run.checkpoint_activations:
        _checkpoint(model.language_model)
        if model.vision.trained:
            _checkpoint(model.vision.backbone)
    if run.compile:
        for layer in decoder_layers(model.language_model):
            layer.compile(dynamic=True)


def _checkpoint(part: Any) -> None:
    """Let a model of transformers compute its layers again in the backward pass."""
    # The older name is that of transformers 5's first releases.
    enable = getattr(part, "activation_checkpointing_enable", part.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def explained_out_of_memory(run: RunRecipe) -> AbstractContextManager[None]:
    """Tell what to change where a step runs out of memory.

    Raises:
        VistuneError: in the place of torch's error.
    """
    remedies = [f"`run.row_tokens` below {run.row_tokens}"]
    if not run.checkpoint_activations:
        remedies.append("`run.checkpoint_activations: true`")
    remedies += ["more devices", "a smaller `optimizer`", "`lora`"]
    return _explained(
        f"A step ran out of memory. In this order, try: {', '.join(remedies)}. None of the first changes "
        "what is learned, and the same command goes on; `--dry-run` says what takes the memory."
    )


def explained_loading() -> AbstractContextManager[None]:
    """Tell what to change where the weights have no room.

    Raises:
        VistuneError: in the place of torch's error.
    """
    return _explained(
        "Loading the model ran out of memory. In this order, try: more devices, a smaller `optimizer`, "
        "`lora`, `lora: {quantise: nf4}`. `--dry-run` says what takes the memory."
    )


@contextmanager
def _explained(message: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on the CPU it has no name of its own
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise VistuneError(message) from error
        raise
