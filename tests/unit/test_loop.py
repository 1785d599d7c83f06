"""A run on tiny parts: what it leaves, that it can go on, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import save_tiny_parts
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.errors import VistuneError
from vistune.recipe import parse_recipe
from vistune.train import loop
from vistune.train.loop import read_all_metrics, train

ALIGN = {
    "trains": ["connector"],
    "data": {"alignment.json": 0.5},
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_steps": 3,
}
INSTRUCT = {
    "trains": ["connector", "llm"],
    "data": {"conversation.json": 1, "detail.json": 1},
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_steps": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, world_annotations):
    folder = tmp_path_factory.mktemp("data")
    generate(
        world_annotations,
        OfflineTeacher(world_annotations.categories),
        folder / "train",
        GenerationSettings(seed=0, picture="first"),
    )
    return folder / "train"


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tokenizer):
    return save_tiny_parts(tmp_path_factory.mktemp("parts"), tokenizer)


@pytest.fixture
def recipe(parts):
    return make_recipe(parts)


def make_recipe(parts, **align):
    model = {**parts, "template": "short", "max_length": 512}
    return parse_recipe(
        {"model": model, "stages": {"align": {**ALIGN, **align}, "instruct": INSTRUCT}}, "test"
    )


@pytest.fixture
def images(tiny_world):
    return tiny_world / "images"


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(out, recipe):
    return {stage: [row["loss"] for row in rows] for stage, rows in read_all_metrics(out, recipe).items()}


def test_a_run_leaves_metrics_and_a_complete_checkpoint_for_each_stage(recipe, data, images, tmp_path):
    last = train(recipe, data, images, tmp_path / "run")
    assert last == tmp_path / "run" / "instruct" / "checkpoint"
    for stage in ("align", "instruct"):
        left = {path.name for path in (tmp_path / "run" / stage).iterdir()}
        assert left == {"metrics.jsonl", "set_aside.jsonl", "checkpoint"}
        assert {path.name for path in (tmp_path / "run" / stage / "checkpoint").iterdir()} >= {
            "config.json",
            "model.safetensors",
            "preprocessor_config.json",
            "processor_config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "vistune.json",
        }
    assert [row["step"] for row in read_all_metrics(tmp_path / "run", recipe)["align"]] == [0, 1, 2]
    assert str(tmp_path.parent.parent) not in (last / "config.json").read_text()


def test_stage_1_trains_the_connector_and_stage_2_the_llm_too(recipe, data, images, tmp_path, parts):
    train(recipe, data, images, tmp_path / "run")
    first = weights(tmp_path / "run" / "align" / "checkpoint")
    second = weights(tmp_path / "run" / "instruct" / "checkpoint")
    llm = load_file(f"{parts['llm']}/model.safetensors")
    name = next(key for key in first if key.endswith("layers.0.mlp.up_proj.weight"))
    assert torch.equal(first[name], llm["model.layers.0.mlp.up_proj.weight"])
    assert not torch.equal(first[name], second[name])
    changed = {
        key.split(".")[0] if "vision" not in key else "vision"
        for key in first
        if not torch.equal(first[key], second[key])
    }
    assert "vision" not in changed


def test_a_run_that_was_interrupted_equals_one_that_was_not(recipe, data, images, tmp_path, monkeypatch):
    train(recipe, data, images, tmp_path / "whole")
    take_step = loop.optimizer_step
    calls = []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 5:  # in the middle of the second stage
            raise KeyboardInterrupt
        return take_step(*args)

    monkeypatch.setattr(loop, "optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, images, tmp_path / "parted")
    monkeypatch.setattr(loop, "optimizer_step", take_step)
    train(recipe, data, images, tmp_path / "parted")
    assert losses(tmp_path / "parted", recipe) == losses(tmp_path / "whole", recipe)
    whole, parted = (weights(tmp_path / run / "instruct" / "checkpoint") for run in ("whole", "parted"))
    assert all(torch.equal(whole[key], parted[key]) for key in whole)


def test_a_folder_with_another_run_is_refused(recipe, parts, data, images, tmp_path):
    train(recipe, data, images, tmp_path / "run")
    with pytest.raises(VistuneError, match="another recipe"):
        train(make_recipe(parts, learning_rate=5e-4), data, images, tmp_path / "run")


def test_a_folder_with_other_files_is_refused(recipe, data, images, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(VistuneError, match="not an empty folder"):
        train(recipe, data, images, tmp_path)


def test_samples_that_cannot_be_used_are_set_aside_and_listed(recipe, data, images, tmp_path):
    broken = tmp_path / "data"
    broken.mkdir()
    for file in data.glob("*.json"):
        (broken / file.name).write_text(file.read_text())
    records = json.loads((data / "conversation.json").read_text())
    records[0]["image"] = "nowhere.jpg"
    records[1]["conversations"].pop()
    records[2]["conversations"][1]["value"] = "word " * 3000
    (broken / "conversation.json").write_text(json.dumps(records))
    train(recipe, broken, images, tmp_path / "run")
    listed = (tmp_path / "run" / "instruct" / "set_aside.jsonl").read_text()
    rows = [json.loads(line) for line in listed.splitlines()]
    assert sorted(row["reason"] for row in rows) == [
        "longer than max_length",
        "malformed record",
        "picture is missing",
    ]
    assert any("record 1" in row["place"] for row in rows)


def test_no_usable_sample_at_all_is_an_error_that_names_the_file(parts, data, tmp_path):
    with pytest.raises(VistuneError, match=r"alignment\.json: no record is left.*picture is missing"):
        train(make_recipe(parts), data, tmp_path, tmp_path / "run")
