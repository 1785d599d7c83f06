"""What Hugging Face's ``llava`` format cannot hold, refused before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vistune.errors import VistuneError
from vistune.model.vision import VisionEncoder
from vistune.progress import say

_PROBE = 8  # tokens that show whether logits are the head's output


def check_decoder(config: Any, name: str) -> None:
    """Refuse, by its configuration alone, an LLM that LLaVA's format cannot hold.

    Raises:
        VistuneError: an encoder-decoder, a multimodal or a quantised model, or one with an unusual head.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    if getattr(config, "is_encoder_decoder", False):
        raise VistuneError(f"{name}: an encoder-decoder model ({config.model_type}); choose a decoder LLM.")
    if config.get_text_config(decoder=True) is not config:
        raise VistuneError(
            f"{name}: a multimodal model ({config.model_type}), not an LLM; choose a text-only LLM."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise VistuneError(
            f"{name}: its weights are quantised already. Choose the original, and `lora.quantise: nf4`."
        )
    try:
        with torch.device("meta"):
            language_model = AutoModelForCausalLM.from_config(config)
            body = AutoModel.from_config(config)
    except Exception as error:  # whatever a configuration lacks, each model says it in its own way
        raise VistuneError(
            f"{name}: transformers builds no LLM of a {config.model_type}'s configuration "
            f"({str(error).strip().splitlines()[0]}). Choose another LLM."
        ) from error
    head = language_model.get_output_embeddings()
    shape = (config.vocab_size, config.hidden_size)
    if not isinstance(head, nn.Linear) or head.bias is not None or tuple(head.weight.shape) != shape:
        raise VistuneError(
            f"{name}: LLaVA's format has an LM head without bias, as wide as the embeddings; a "
            f"{config.model_type} has {head}. Choose another LLM."
        )
    if body.state_dict().keys() != language_model.base_model.state_dict().keys():
        raise VistuneError(f"{name}: LLaVA's format cannot hold a {config.model_type}. Choose another LLM.")


@torch.no_grad()
def check_logits(language_model: Any, name: str) -> None:
    """Refuse an LLM that does more than LLaVA's format does: embeddings -> decoder -> LM head.

    Capped logits (Gemma 2) are uncapped: the format computes them so, and so must we.

    Raises:
        VistuneError: it scales its logits, or reads ids beside their embeddings.
    """
    if getattr(language_model.config, "final_logit_softcapping", None) is not None:
        say(f"{name}: its logits are no longer capped: LLaVA's format computes them uncapped")
        uncap(language_model.config)
    ids = torch.arange(_PROBE, device=language_model.device)[None]
    ids %= language_model.config.vocab_size
    embeddings = language_model.get_input_embeddings()(ids)
    hidden = language_model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    ours = language_model.get_output_embeddings()(hidden)
    theirs = language_model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())):
        raise VistuneError(
            f"{name}: a {language_model.config.model_type} does more than embeddings, decoder and LM head, "
            "which is all that LLaVA's format can hold. Choose another LLM."
        )


def uncap(config: Any) -> None:
    """Let the LLM's own forward not cap its logits, as LLaVA's format does not.

    Raises:
        VistuneError: its configuration cannot say so.
    """
    if getattr(config, "final_logit_softcapping", None) is None:
        return
    try:
        config.final_logit_softcapping = None
    except Exception as error:  # of huggingface_hub's strict dataclasses; the kind differs between versions
        raise VistuneError(
            f"A {config.model_type} caps its logits, and its configuration allows nothing else; "
            "LLaVA's format computes them uncapped. Choose another LLM."
        ) from error


def select_strategy(vision: VisionEncoder) -> str:
    """What the format calls the tokens that are read.

    Raises:
        VistuneError: it has no name for them.
    """
    if vision.dropped > 1:
        raise VistuneError(
            f"vision_select patch: this {vision.backbone.config.model_type} has {vision.specials} tokens "
            "before its patches, and LLaVA's format can leave out one only. Choose cls_patch, or an encoder "
            "without registers."
        )
    return "default" if vision.dropped else "full"
