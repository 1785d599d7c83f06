"""Hours and disk of a stage: by hand on small numbers, and held against what was published."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from tests.tiny import tiny_checkpoint, tiny_llm, tiny_vision
from vistune.errors import VistuneError
from vistune.model.checkpoint import save_checkpoint
from vistune.model.connector import Connector
from vistune.model.llava import Llava
from vistune.model.vision import VisionEncoder
from vistune.recipe import load_recipe
from vistune.train.flops import model_flops, peak_of_name
from vistune.train.plan.cost import (
    Disk,
    Work,
    disk_of,
    find_gpu,
    hours,
    operations,
    time_lines,
    told_hours,
)
from vistune.train.plan.estimate import GIB
from vistune.train.plan.sketch import set_stage

BF16 = torch.bfloat16
_WIDTHS = {7: (4096, 11008, 32), 13: (5120, 13824, 40)}


def llava(billions, size, connector):
    """The shapes of CLIP ViT-L/14 and Vicuna."""
    width, inner, layers = _WIDTHS[billions]
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    vision |= {"num_attention_heads": 16, "patch_size": 14, "image_size": size}
    llm = {"vocab_size": 32064, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    with torch.device("meta"):
        encoder = VisionEncoder(CLIPVisionModel(CLIPVisionConfig(**vision)))
        model = LlamaForCausalLM(LlamaConfig(**llm, num_attention_heads=width // 128))
        return Llava(encoder, Connector(connector, 1024, width), model, 0)


def reference(samples, pictures, text, supervised, patches):
    """What the reference computes: nothing is shared. ``text`` tokens a sample, on the average."""
    length = text + patches * pictures / samples
    return Work(samples * length, samples * length**2 / 2, samples * supervised, pictures, pictures)


# Samples and pictures as published. Tokens of text are assumptions: captions of a line; dialogues of 300
# tokens; in the paper's first stage a system text and a question.
_ALIGN = reference(558_128, 558_128, 25, 20, 576)
_INSTRUCT = reference(665_298, 624_610, 300, 150, 576)
_PAPER_ALIGN = reference(595_375, 595_375, 90, 20, 256)
_PAPER_INSTRUCT = reference(3 * 157_712, 3 * 157_712, 300, 200, 256)


@pytest.mark.parametrize(
    ("recipe", "stage", "billions", "work", "published", "off"),
    [
        ("llava-1.5-7b", "align", 7, _ALIGN, 3.5, 0.08),
        ("llava-1.5-7b", "instruct", 7, _INSTRUCT, 10, -0.17),
        ("llava-1.5-13b", "align", 13, _ALIGN, 5.5, 0.33),
        ("llava-1.5-13b", "instruct", 13, _INSTRUCT, 20, -0.19),
        ("llava-13b", "align", 13, _PAPER_ALIGN, 4, 0.11),  # "under 4 h"
        ("llava-13b", "instruct", 13, _PAPER_INSTRUCT, 10, -0.25),  # "under 10 h"
    ],
)
def test_hours_are_about_those_that_were_published(recipe, stage, billions, work, published, off):
    described = load_recipe(recipe)
    size, connector = (336, "mlp2x_gelu") if "1.5" in recipe else (224, "linear")
    model = llava(billions, size, connector)
    set_stage(model, described.stages[stage])
    found = hours(operations(model, work, True), find_gpu("a100"), 8)
    assert found / published - 1 == pytest.approx(off, abs=0.02)


@pytest.fixture
def tiny():
    with torch.device("meta"):
        return Llava(VisionEncoder(tiny_vision()), Connector("linear", 24, 32), tiny_llm(320), 0)


def test_operations_by_hand(tiny):
    tiny.set_trained({"connector", "llm"})
    flops = model_flops(tiny)
    work = Work(tokens=100, pairs=1000, supervised=10, pictures=3, encoded=2)
    once = (
        100 * flops.token
        + 1000 * flops.pair
        + 10 * flops.prediction
        + 3 * 4 * flops.patch
        + 2 * flops.picture
    )
    assert operations(tiny, work, False) == once
    layer = 4 * 32 * 32 + 3 * 32 * 64
    again = 100 * 2 * 2 * layer + 1000 * 4 * 32 * 2
    assert operations(tiny, work, True) == once + again


def test_activations_computed_again_cost_a_third_of_a_trained_llm(tiny):
    tiny.set_trained({"connector", "llm"})
    work = Work(tokens=1e6, pairs=0, supervised=0, pictures=0, encoded=0)
    assert operations(tiny, work, True) == pytest.approx(4 / 3 * operations(tiny, work, False))


@pytest.mark.parametrize("name", ["rtx4090", "RTX-4090", "rtx 4090", "a100-40gb", "H100"])
def test_a_gpu_may_be_spelt_as_one_likes(name):
    assert find_gpu(name).peak == peak_of_name(f"NVIDIA {find_gpu(name).name.removesuffix(' 40GB')}")


@pytest.mark.parametrize("name", ["h1000", "voodoo2", ""])
def test_an_unknown_gpu_is_refused_with_those_that_are_known(name):
    with pytest.raises(VistuneError, match=r"not known; choose one of: h200, h100, .*a100-40gb.*rtx-4090"):
        find_gpu(name)


def test_hours_are_told_with_what_they_assume():
    gpu = find_gpu("a100")
    (line,) = time_lines(0.4 * 312e12 * 3600 * 8 * 3.5, gpu, 8, BF16)
    assert line.startswith("time: about 3.5 hours on 8 x A100, at 40% of 312 TFLOP/s each")
    (line,) = time_lines(1e15, gpu, 1, torch.float32)
    assert "not estimated" in line and "precision: bfloat16" in line
    assert told_hours(0.05) == "about 3 minutes" and told_hours(0.001) == "less than a minute"


def test_disk_by_hand(tiny):
    recipe = load_recipe("starter", ["run.save_steps=200", "run.features=cache"])
    stage = recipe.stages["instruct"]
    counts = set_stage(tiny, stage)
    trained, whole = sum(t for t, _ in counts.values()), sum(map(sum, counts.values()))
    found = disk_of(tiny, stage, recipe.run, torch.float32, steps=500, pictures=7)
    assert found == Disk(4 * whole, 12 * trained, 2, 7 * 4 * 24 * 4)
    assert disk_of(tiny, stage, recipe.run, torch.float32, steps=200, pictures=7).saves == 0
    assert disk_of(tiny, stage, recipe.run, torch.float32, steps=201, pictures=7).saves == 1
    line = Disk(2 * GIB, 3 * GIB, 2, 0).line(5 * GIB)
    assert line == "disk: at most 8.0 GiB (a checkpoint 2.0 GiB, 2 saves of 3.0 GiB); 5.0 GiB are free"


def test_a_checkpoint_has_the_size_that_is_told(tmp_path, tokenizer):
    checkpoint = tiny_checkpoint(tokenizer)
    save_checkpoint(checkpoint, tmp_path / "checkpoint")
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    recipe = load_recipe("starter")
    found = disk_of(checkpoint.model, recipe.stages["instruct"], recipe.run, torch.float32, 1, 0)
    identity = 4 * (32 * 32 + 32)  # the format's second layer of a linear connector
    assert size == found.checkpoint + identity
