"""What a stage's weights are held in before it begins: the precision of their files, and on one process."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import forget_image_token, save_tiny_parts
from vistune.errors import VistuneError
from vistune.model.checkpoint import join_parts
from vistune.model.precision import stored_precision
from vistune.recipe import RunRecipe, parse_recipe
from vistune.train.compute import explained_loading, set_up
from vistune.train.start import start

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def recast(folder, **dtypes):
    """Store weights in other precisions: all, or those whose name holds a key."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    for key, dtype in dtypes.items():
        weights = {n: x.to(dtype) if key == "all" or key in n else x for n, x in weights.items()}
    save_file(weights, path, {"format": "pt"})


@pytest.fixture
def parts(tmp_path, tokenizer):
    return save_tiny_parts(tmp_path, tokenizer)


def recipe_of(parts, **more):
    stage = {"trains": ["connector", "llm"], "data": {"x": 1}, "learning_rate": 1.0, "batch_size": 1, **more}
    model = {**parts, "template": "short", "max_length": 512}
    return parse_recipe({"model": model, "stages": {"only": stage}, "precision": "bfloat16"}, "test")


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ({"all": BF16}, BF16),
        ({"all": FP16}, FP16),
        ({"all": FP32}, FP32),
        ({"all": BF16, "norm": FP32}, FP32),
    ],
)
def test_precision_is_that_of_the_files_and_mixed_weights_are_read_whole(parts, tmp_path, dtypes, expected):
    recast(tmp_path / "llm", **dtypes)
    config = json.loads((tmp_path / "llm" / "config.json").read_text())
    (tmp_path / "llm" / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert stored_precision(parts["llm"]) is expected


def test_pickled_weights_are_looked_into_without_reading_them(parts, tmp_path):
    file = tmp_path / "llm" / "model.safetensors"
    torch.save({n: x.half() for n, x in load_file(file).items()}, tmp_path / "llm" / "pytorch_model.bin")
    file.unlink()
    assert stored_precision(parts["llm"]) is FP16


@pytest.mark.parametrize("dtype", [BF16, FP16, FP32])
@pytest.mark.parametrize("trains", [["connector"], ["connector", "llm"]])
def test_a_stage_starts_with_the_weights_that_it_had_when_all_were_read_in_32_bits(
    parts, tmp_path, dtype, trains
):
    for part in ("llm", "vision"):
        recast(tmp_path / part, all=dtype)
    forget_image_token(tmp_path / "llm")  # so that the embeddings grow
    recipe = recipe_of(parts, trains=trains)
    ours = start(recipe, "only", None, whole=True).model
    body = ours.language_model.get_decoder().layers
    assert {p.dtype for p in body.parameters()} == {dtype}
    assert {p.dtype for p in ours.vision.parameters()} == {dtype}
    theirs = join_parts(recipe.model, recipe.seed).model
    for model in (ours, theirs):
        model.set_trained(set(trains))
        set_up(model, RunRecipe(), BF16)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.dtype is other.dtype is (FP32 if mine.requires_grad else BF16), name
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_others_know_the_same_weights_and_hold_none(tmp_path, tokenizer, lora, family):
    recipe = recipe_of(
        save_tiny_parts(tmp_path, tokenizer, family=family), **({"lora": lora} if lora else {})
    )
    told = []
    for whole in (True, False):
        model = start(recipe, "only", None, whole).model
        model.set_trained({"connector", "llm"})
        set_up(model, RunRecipe(), BF16)
        told.append([(n, x.dtype, x.shape, x.requires_grad) for n, x in model.named_parameters()])
        told[-1] += [(n, x.dtype, x.shape) for n, x in model.named_buffers()]
        assert {p.device.type for p in model.parameters()} == {"cpu" if whole else "meta"}
    assert told[0] == told[1]


def test_loading_that_finds_no_room_says_what_to_change():
    with (
        pytest.raises(VistuneError, match=r"Loading the model ran out of memory.*more devices"),
        explained_loading(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), explained_loading():
        raise RuntimeError("something else")
