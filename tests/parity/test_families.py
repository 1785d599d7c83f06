"""Every family of encoders and LLMs: joined, saved, and held against transformers' LLaVA."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    LlavaForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)

from tests.tiny import (
    IMAGE_SIZE,
    LLM_FAMILIES,
    REGISTERS,
    VISION_KINDS,
    forget_image_token,
    save_tiny_parts,
    tiny_vision,
)
from vistune.conversation import Conversation, ask, gpt, human
from vistune.errors import VistuneError
from vistune.model.checkpoint import join_parts, load_checkpoint, save_checkpoint
from vistune.model.parts import load_vision
from vistune.model.vision import VisionEncoder
from vistune.recipe import ModelRecipe

pytestmark = pytest.mark.filterwarnings("ignore")
SPECIALS = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov2_with_registers": 1 + REGISTERS}
PATCHES = 4
TALK = Conversation("talk", (human(*ask("What is in the picture?", "a.jpg")), gpt("A dog and two cats.")))


@pytest.fixture
def pixels():
    return torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def logits(checkpoint, ids, pixels):
    model, ids = checkpoint.model, torch.tensor([ids])
    return model.language_model(inputs_embeds=model.embed(ids, pixels), use_cache=False).logits


def check_against_transformers(checkpoint, pixels, folder, family="llama"):
    save_checkpoint(checkpoint, folder)
    ids = checkpoint.renderer.encode(TALK).ids
    # Before 5.21, transformers' SDPA leaves out Gemma 2's bound of scores; later it takes eager itself.
    how = {"attn_implementation": "eager"} if family == "gemma2" else {}
    theirs, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True, **how)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    expected = theirs.eval()(input_ids=torch.tensor([ids]), pixel_values=pixels).logits
    ours = logits(checkpoint, ids, pixels)
    assert ours.std() > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    processor = AutoProcessor.from_pretrained(folder)
    seen = processor(images=Image.new("RGB", (40, 30)), text="<image>", add_special_tokens=False)
    assert list(seen["input_ids"][0]) == [checkpoint.model.image_token] * checkpoint.model.vision.patches
    again = load_checkpoint(folder)
    assert again.renderer.encode(TALK).ids == ids
    torch.testing.assert_close(logits(again, ids, pixels), ours, atol=1e-6, rtol=1e-6)
    return again


@torch.no_grad()
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_each_llm_computes_in_transformers_what_it_computes_here(family, tokenizer, pixels, tmp_path):
    parts = save_tiny_parts(tmp_path, tokenizer, family=family)
    checkpoint = join_parts(ModelRecipe(**parts, template="short", max_length=512), 0)
    again = check_against_transformers(checkpoint, pixels, tmp_path / "saved", family)
    ours, theirs = checkpoint.model.language_model, again.model.language_model
    assert type(ours) is type(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


@torch.no_grad()
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_each_llm_learns_the_image_token(family, tokenizer, pixels, tmp_path):
    """Scaled and tied embeddings grow like others."""
    parts = save_tiny_parts(tmp_path, tokenizer, family=family)
    forget_image_token(tmp_path / "llm")
    checkpoint = join_parts(ModelRecipe(**parts, template="short", max_length=512), 0)
    llm, image_token, known = checkpoint.model.language_model, checkpoint.model.image_token, len(tokenizer)
    assert known <= image_token < llm.config.vocab_size == llm.get_output_embeddings().weight.shape[0]
    assert llm.config.vocab_size % 64 == 0
    for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
        torch.testing.assert_close(layer.weight[image_token], layer.weight[:known].mean(0))
    check_against_transformers(checkpoint, pixels, tmp_path / "saved", family)


@torch.no_grad()
@pytest.mark.parametrize("select", ["patch", "cls_patch"])
@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_encoders_with_a_class_token(kind, select, tokenizer, pixels, tmp_path):
    parts = save_tiny_parts(tmp_path, tokenizer, kind=kind)
    recipe = ModelRecipe(**parts, template="short", vision_select=select, max_length=512)
    checkpoint = join_parts(recipe, 0)
    assert checkpoint.model.vision.patches == PATCHES + (select == "cls_patch")
    check_against_transformers(checkpoint, pixels, tmp_path / "saved")


@torch.no_grad()
@pytest.mark.parametrize("kind, select", [("siglip", "patch"), ("dinov2_with_registers", "cls_patch")])
def test_encoders_with_no_class_token_or_many(kind, select, tokenizer, pixels, tmp_path):
    parts = save_tiny_parts(tmp_path, tokenizer, kind=kind)
    recipe = ModelRecipe(**parts, template="short", vision_select=select, vision_layer=-1, max_length=512)
    checkpoint = join_parts(recipe, 0)
    assert checkpoint.model.vision.patches == PATCHES + SPECIALS[kind]
    check_against_transformers(checkpoint, pixels, tmp_path / "saved")


def test_what_the_format_cannot_hold_is_refused_before_training(tokenizer, tmp_path):
    parts = save_tiny_parts(tmp_path, tokenizer, kind="dinov2_with_registers")
    with pytest.raises(VistuneError, match=r"4 tokens before its patches.*cls_patch"):
        join_parts(ModelRecipe(**parts, template="short", max_length=512), 0)


@torch.no_grad()
@pytest.mark.parametrize("layer", [-4, -3, -2, -1, 0, 1, 2, 3])
@pytest.mark.parametrize("kind", VISION_KINDS)
def test_features_are_the_hidden_state_that_transformers_numbers_so(kind, layer, pixels):
    torch.manual_seed(0)
    backbone = tiny_vision(kind).eval()
    encoder = VisionEncoder(backbone, layer, "patch")
    expected = backbone(pixels, output_hidden_states=True).hidden_states[layer][:, SPECIALS[kind] :]
    assert torch.equal(encoder(pixels), expected)
    assert expected.shape[1] == encoder.patches == PATCHES


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_layers_after_the_one_that_is_read_are_not_computed_but_kept(kind, pixels):
    backbone = tiny_vision(kind).eval()
    encoder = VisionEncoder(backbone, -2)
    called = []
    for name, module in backbone.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    encoder(pixels)
    assert any(".1." in name for name in called) and any(".0." in name for name in called)
    assert not [name for name in called if ".2." in name or "post" in name or "head" in name]
    assert len(encoder.state_dict()) == len(backbone.state_dict())


@pytest.mark.parametrize("layer", [-5, 4])
def test_a_layer_that_is_not_there_is_refused(layer):
    with pytest.raises(VistuneError, match=rf"vision_layer {layer}: this encoder has 3 layers"):
        VisionEncoder(tiny_vision(), layer)


def test_an_encoder_follows_its_model_to_another_precision(pixels):
    encoder = VisionEncoder(tiny_vision("siglip")).to(torch.float64)
    assert encoder(pixels.double()).dtype == torch.float64


def test_dinov2_takes_pictures_of_another_size_than_it_was_configured_for(pixels):
    torch.manual_seed(0)
    encoder = VisionEncoder(tiny_vision("dinov2"), image_size=24)
    assert encoder.patches == 9 == encoder(torch.randn(1, 3, 24, 24)).shape[1]
    with pytest.raises(VistuneError, match="24 pixels, but this clip_vision_model takes 16"):
        VisionEncoder(tiny_vision("clip"), image_size=24)


@pytest.mark.parametrize(
    "whole, config", [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)], ids=["clip", "siglip"]
)
def test_a_whole_model_gives_its_vision_half(whole, config, tmp_path, pixels):
    vision = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    torch.manual_seed(0)
    model = whole(
        config(text_config=text, vision_config={**vision, "image_size": IMAGE_SIZE, "patch_size": 8})
    ).eval()
    model.save_pretrained(tmp_path)
    half = load_vision(str(tmp_path))
    assert half.config.model_type == f"{config.model_type}_vision_model"
    expected = model.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(half.eval()(pixels, output_hidden_states=True).hidden_states[-2], expected)


def test_an_encoder_of_another_family_is_refused(tmp_path):
    from transformers import ViTConfig

    backbone = AutoModel.from_config(ViTConfig(hidden_size=24, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(VistuneError, match="type 'vit' is not supported"):
        VisionEncoder(backbone)
