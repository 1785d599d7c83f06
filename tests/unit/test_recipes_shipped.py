"""Every recipe that comes with vistune, against the figures of the paper and of LLaVA-1.5."""

from pathlib import Path

import pytest
import yaml

import vistune.recipes
from vistune.recipe import load_recipe, parse_recipe, shipped_recipes
from vistune.template import find_template

NAMES = [
    "llava-1.5-13b",
    "llava-1.5-7b",
    "llava-13b",
    "llava-7b",
    "lora",
    "scienceqa",
    "single-gpu",
    "starter",
    "tune",
]
PAPER, NEWER = ("llava-13b", "llava-7b"), ("llava-1.5-13b", "llava-1.5-7b")
BIG = [name for name in NAMES if name not in ("starter", "tune")]


def test_every_file_of_the_folder_is_a_recipe_and_none_is_missing():
    folder = Path(vistune.recipes.__file__).parent
    files = sorted(folder.rglob("*.y*ml"))
    assert [file.stem for file in files] == NAMES == shipped_recipes()
    for file in files:
        parse_recipe(yaml.safe_load(file.read_text(encoding="utf-8")), file.name)


@pytest.mark.parametrize("name", NAMES)
def test_every_template_is_known(name):
    recipe = load_recipe(name)
    for stage in recipe.stages:
        assert find_template(recipe.template_of(stage)).name == recipe.template_of(stage)


@pytest.mark.parametrize("name", BIG)
def test_what_all_of_the_references_runs_share(name):
    recipe = load_recipe(name)
    assert recipe.precision == "bfloat16" and (recipe.run.fit or name == "single-gpu")
    assert recipe.model.max_length == 2048
    assert (recipe.model.vision_layer, recipe.model.vision_select) == (-2, "patch")
    for stage in recipe.stages.values():
        assert (stage.weight_decay, stage.warmup_ratio) == (0.0, 0.03)
    assert recipe.stages["instruct"].trains == ("connector", "llm")
    if name != "scienceqa":
        assert list(recipe.stages) == ["align", "instruct"]
        assert recipe.stages["align"].trains == ("connector",)


def figures(stage):
    return stage.learning_rate, stage.batch_size, stage.epochs


@pytest.mark.parametrize("name", PAPER)
def test_the_paper(name):
    recipe = load_recipe(name)
    model, align, instruct = recipe.model, recipe.stages["align"], recipe.stages["instruct"]
    assert model.vision == "openai/clip-vit-large-patch14"
    assert model.llm == f"lmsys/vicuna-{name.removeprefix('llava-')}-v1.3"
    assert (model.connector, model.preprocessing) == ("linear", "square")
    assert recipe.template_of("align") == recipe.template_of("instruct") == "v0"
    assert figures(align) == (2e-3, 128, 1) and figures(instruct) == (2e-5, 32, 3)
    assert list(align.data) == ["chat.json"]
    assert len(instruct.data) == 3 and instruct.mix == "uniform"


@pytest.mark.parametrize("name", NEWER)
def test_llava_15(name):
    recipe = load_recipe(name)
    model, align, instruct = recipe.model, recipe.stages["align"], recipe.stages["instruct"]
    assert model.vision == "openai/clip-vit-large-patch14-336"
    assert model.llm == f"lmsys/vicuna-{name.removeprefix('llava-1.5-')}-v1.5"
    assert (model.connector, model.preprocessing) == ("mlp2x_gelu", "pad")
    assert (recipe.template_of("align"), recipe.template_of("instruct")) == ("plain", "vicuna_v1")
    assert figures(align) == (1e-3, 256, 1) and figures(instruct) == (2e-5, 128, 1)
    assert "558k" in next(iter(align.data)) and "665k" in next(iter(instruct.data))


@pytest.mark.parametrize(("name", "like"), [("llava-7b", "llava-13b"), ("llava-1.5-7b", "llava-1.5-13b")])
def test_sizes_differ_in_nothing_but_the_llm(name, like):
    small, large = load_recipe(name), load_recipe(like)
    assert small.model.llm != large.model.llm
    assert small == large.model_copy(
        update={"model": large.model.model_copy(update={"llm": small.model.llm})}
    )


def test_scienceqa():
    recipe = load_recipe("scienceqa")
    assert list(recipe.stages) == ["instruct"]
    assert figures(recipe.stages["instruct"]) == (2e-5, 32, 12)
    assert recipe.model.start_from == "llava-13b/align/checkpoint"
    assert recipe.template_of("instruct") == "v0"


def test_lora():
    stage = load_recipe("lora").stages["instruct"]
    assert (stage.lora.rank, stage.lora.alpha, stage.lora.quantise) == (128, 256, None)
    assert (stage.rate_of("llm"), stage.rate_of("connector")) == (2e-4, 2e-5)


def test_lora_is_llava_15_but_for_the_adapters():
    lora, whole = load_recipe("lora"), load_recipe("llava-1.5-7b")
    assert (lora.model, lora.stages["align"], lora.run) == (whole.model, whole.stages["align"], whole.run)
    changed = {"lora", "learning_rate"}
    assert lora.stages["instruct"].model_dump(exclude=changed) == whole.stages["instruct"].model_dump(
        exclude=changed
    )


def test_single_gpu():
    recipe = load_recipe("single-gpu")
    assert recipe.stages["instruct"].lora.quantise == "nf4"
    assert recipe.run.row_tokens == recipe.model.max_length and recipe.run.checkpoint_activations
    assert "conversation.json" in recipe.stages["instruct"].data  # what `generate` writes


def test_tune():
    recipe = load_recipe("tune")
    assert list(recipe.stages) == ["tune"] and recipe.model.start_from
    stage = recipe.stages["tune"]
    assert stage.lora and 8 <= stage.batch_size <= 16 and stage.epochs > 1
