"""A tiny random model of each family, for tests that need no answer that makes sense."""

import torch
import transformers

from vistune.data.images import Preprocessor
from vistune.model.checkpoint import Checkpoint
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe

IMAGE_SIZE, PATCH_SIZE, REGISTERS = 16, 8, 3

_VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
}
_ENCODERS = {
    "clip": ("CLIPVision", {"intermediate_size": 48}),
    "siglip": ("SiglipVision", {"intermediate_size": 48}),
    "dinov2": ("Dinov2", {"mlp_ratio": 2}),
    "dinov2_with_registers": ("Dinov2WithRegisters", {"mlp_ratio": 2, "num_register_tokens": REGISTERS}),
}

_LLM = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # random answers that differ from each other
}
_SLIDING = ["sliding_attention", "full_attention"]
_NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # the defaults are beyond us
_FAMILIES = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"num_key_value_heads": 1, "sliding_window": 6}),
    "qwen2": ("Qwen2", {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma2": ("Gemma2", {"head_dim": 16, "layer_types": _SLIDING, "sliding_window": 6}),
    "gemma3": ("Gemma3", {"head_dim": 16, "layer_types": _SLIDING, "sliding_window": 6}),
    "phi3": ("Phi3", {"sliding_window": 6, **_NO_TOKENS}),
}
_MIXTURES = {"mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2})}
VISION_KINDS, LLM_FAMILIES = tuple(_ENCODERS), tuple(_FAMILIES)


def tiny_vision(kind="clip", **settings):
    name, extra = _ENCODERS[kind]
    config = getattr(transformers, f"{name}Config")(**{**_VISION, **extra, **settings})
    return getattr(transformers, f"{name}Model")(config)


def tiny_llm(vocabulary, family="llama"):
    name, extra = {**_FAMILIES, **_MIXTURES}[family]
    kind = "Gemma3TextConfig" if family == "gemma3" else f"{name}Config"
    config = getattr(transformers, kind)(vocab_size=vocabulary, **{**_LLM, **extra})
    return getattr(transformers, f"{name}ForCausalLM")(config)


def tiny_checkpoint(tokenizer, seed=0, **settings):
    """A complete checkpoint with random weights; ``settings`` are the model recipe's."""
    torch.manual_seed(seed)
    recipe = ModelRecipe(vision="tiny", llm="tiny", template="short", max_length=512).model_copy(
        update=settings
    )
    vision = VisionEncoder(tiny_vision(), recipe.vision_layer, recipe.vision_select)
    llm = tiny_llm(len(tokenizer))
    connector = Connector(recipe.connector, vision.width, llm.config.hidden_size)
    model = Llava(vision, connector, llm, tokenizer.convert_tokens_to_ids("<image>")).eval()
    preprocess = Preprocessor(IMAGE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Checkpoint(model, tokenizer, preprocess, recipe)


def save_tiny_parts(folder, tokenizer, seed=0, kind="clip", family="llama"):
    """Vision encoder and LLM as folders in Hugging Face's format, for ``join_parts``."""
    torch.manual_seed(seed)
    tiny_vision(kind).save_pretrained(folder / "vision")
    Preprocessor(IMAGE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).save(folder / "vision")
    tiny_llm(len(tokenizer), family).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    return {"vision": str(folder / "vision"), "llm": str(folder / "llm")}


def forget_image_token(folder):
    """Make a saved tokenizer that of an LLM that has never seen a picture."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / file).read_text()
        (folder / file).write_text(text.replace("<image>", "<figure>"))
