"""Models with random weights, for measures to which answers that make sense do not matter."""

from __future__ import annotations

from typing import Any

import torch

from vistune.data.images import Preprocessor
from vistune.model.checkpoint import Checkpoint, load_checkpoint
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VOCABULARY, CONTEXT = 8192, 2048


def random_model(connector: str, image_token: int, vision: dict[str, Any], llm: dict[str, Any]) -> Llava:
    """A CLIP, a connector and a Llama of these sizes.

    Args:
        vision, llm: of ``CLIPVisionConfig`` and ``LlamaConfig``.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    seeing, writing = CLIPVisionConfig(**vision), LlamaConfig(**llm)
    encoder = VisionEncoder(CLIPVisionModel(seeing), -2, "patch")
    joint = Connector(connector, seeing.hidden_size, writing.hidden_size)
    return Llava(encoder, joint, LlamaForCausalLM(writing), image_token)


def random_llava(layers: int = 12, side: int = 336) -> Checkpoint:
    """A CLIP of 11M parameters, a connector of two layers, a Llama of 46M, with the starter's tokenizer.

    Written greedily, its answers have words, and no STOP: they are as long as is asked for.

    Args:
        layers: of the Llama.
        side: of a picture; 14 pixels make a patch.
    """
    tokenizer = load_checkpoint("starter").tokenizer
    vision = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "image_size": side,
        "patch_size": 14,
    }
    llm = {
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = random_model("mlp2x_gelu", tokenizer.convert_tokens_to_ids("<image>"), vision, llm)
    silence(model, legible(tokenizer))
    recipe = ModelRecipe(
        vision="random", llm="random", connector="mlp2x_gelu", template="short", max_length=CONTEXT
    )
    return Checkpoint(model.eval(), tokenizer, Preprocessor(side, CLIP_MEAN, CLIP_STD), recipe)


def legible(tokenizer: Any) -> list[int]:
    """The ids of words and parts of words: not of half characters, white space, or what is special."""
    texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
    special = set(tokenizer.all_special_ids)
    return [n for n, text in texts.items() if n not in special and text.strip() and "\ufffd" not in text]


def silence(model: Llava, said: list[int]) -> None:
    """Give all other tokens the logit 0, which is never the highest of a thousand random ones."""
    weight = model.language_model.get_output_embeddings().weight
    with torch.no_grad():
        kept = weight[said].clone()
        weight.zero_()
        weight[said] = kept
