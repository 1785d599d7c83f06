"""An encoder that a stage trains learns what it learns in transformers."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from tests.tiny import IMAGE_SIZE, VISION_KINDS, save_tiny_parts
from vistune.data.batch import Batch, to_batch
from vistune.data.pack import Tree, flatten
from vistune.model.checkpoint import join_parts, save_checkpoint
from vistune.recipe import ModelRecipe
from vistune.template import Encoded

WORDS = [5, 6, 7, 8, 9, 10]
UNREAD = ("layers.2.", "layer.2.", "post_layernorm", "layernorm.", "head.", "mask_token")
TOWER = "model.vision_tower."


def joined(tokenizer, folder, kind):
    parts = save_tiny_parts(folder, tokenizer, kind=kind)
    select = "cls_patch" if kind == "dinov2_with_registers" else "patch"
    recipe = ModelRecipe(
        **parts, template="short", connector="mlp2x_gelu", max_length=512, vision_select=select
    )
    return join_parts(recipe, seed=0)


def row(model, pixels):
    picture = [model.image_token] * model.vision.patches if pixels is not None else []
    sample = Encoded([*WORDS[:2], *picture, *WORDS[2:]], [-100] * (len(picture) + 4) + WORDS[4:], [])
    tree = Tree((0,), 0, (len(sample.ids),))
    batch = to_batch(flatten([tree], [[sample]], model.image_token))
    return sample, Batch(**{**vars(batch), "pixels": pixels})


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", VISION_KINDS)
def test_gradients_are_those_of_transformers(kind, checkpointed, tokenizer, tmp_path):
    checkpoint = joined(tokenizer, tmp_path, kind)
    model = checkpoint.model
    save_checkpoint(checkpoint, tmp_path / "joined")
    model.set_trained({"vision", "connector", "llm"})
    if checkpointed:
        model.vision.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    pixels = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    sample, batch = row(model.train(), pixels)
    model(batch).backward()

    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "joined").train()
    logits = theirs(input_ids=torch.tensor([sample.ids]), pixel_values=pixels).logits[0, :-1]
    targets = torch.tensor(sample.labels[1:])
    torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()

    expected = {n.removeprefix(TOWER): p.grad for n, p in theirs.named_parameters() if n.startswith(TOWER)}
    found = dict(model.vision.backbone.named_parameters())
    assert found.keys() == expected.keys()
    learned = [name for name, parameter in found.items() if parameter.grad is not None]
    assert learned and not [name for name in learned if any(part in name for part in UNREAD)]
    scale = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    for name, parameter in found.items():
        if parameter.grad is None:
            assert expected[name] is None and not parameter.requires_grad, name
        else:
            assert parameter.requires_grad
            assert (parameter.grad - expected[name]).abs().max() < 1e-5 * scale, name


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_it_takes_part_in_a_row_without_a_picture(kind, tokenizer, tmp_path):
    """All processes must reduce the same gradients."""
    model = joined(tokenizer, tmp_path, kind).model.train()
    model.set_trained({"vision"})
    model(row(model, None)[1]).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(p.grad is not None and not p.grad.any() for p in trained)


def test_it_is_frozen_again_where_the_next_stage_says_so(tokenizer, tmp_path):
    model = joined(tokenizer, tmp_path, "dinov2").model
    assert model.set_trained({"vision"})["vision"] > 0 and model.train().vision.backbone.training
    assert model.set_trained({"connector"})["vision"] == 0 and not model.train().vision.backbone.training
    pixels = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert not model.vision(pixels).requires_grad
