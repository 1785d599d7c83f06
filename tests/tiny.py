"""A tiny random model, for tests that need no answer that makes sense."""

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from vistune.data.images import Preprocessor
from vistune.model.checkpoint import Checkpoint
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe

IMAGE_SIZE, PATCH_SIZE = 16, 8


def tiny_vision():
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    return CLIPVisionModel(config)


def tiny_llm(vocabulary):
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # random answers that differ from each other
    )
    return LlamaForCausalLM(config)


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


def save_tiny_parts(folder, tokenizer, seed=0):
    """Vision encoder and LLM as folders in Hugging Face's format, for ``join_parts``."""
    checkpoint = tiny_checkpoint(tokenizer, seed)
    checkpoint.model.vision.backbone.save_pretrained(folder / "vision")
    checkpoint.preprocess.save(folder / "vision")
    checkpoint.model.language_model.save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    return {"vision": str(folder / "vision"), "llm": str(folder / "llm")}
