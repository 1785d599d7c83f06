"""A dry run and a run refuse the same, and share what they prepare."""

import json
import re
import shutil

import pytest

from tests.tiny import save_tiny_parts, tiny_checkpoint
from vistune.data.records import write_records
from vistune.errors import VistuneError
from vistune.model import parts as model_parts
from vistune.model.checkpoint import save_checkpoint
from vistune.recipe import RunRecipe, parse_recipe
from vistune.train.check import check_size, settle
from vistune.train.loop import read_all_metrics, train
from vistune.train.plan.command import plan_run

STAGE = {
    "trains": ["connector"],
    "data": {"data.json": 1},
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_steps": 1,
}


@pytest.fixture(scope="module")
def images(tiny_world):
    return tiny_world / "images"


@pytest.fixture(scope="module")
def data(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("data")
    names = sorted(path.name for path in images.iterdir())[:4]
    records = [
        {
            "id": str(number),
            "image": names[number % 4],
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": f"{number} cats."},
                {"from": "human", "value": "What else?"},
                {"from": "gpt", "value": "Nothing. " * 20},
            ],
        }
        for number in range(8)
    ]
    write_records(folder / "data.json", records)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tokenizer):
    return save_tiny_parts(tmp_path_factory.mktemp("parts"), tokenizer)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("start") / "checkpoint"
    save_checkpoint(tiny_checkpoint(tokenizer, connector="mlp2x_gelu", max_length=80), folder)
    return folder


def recipe_of(model, *stages):
    stages = stages or [STAGE]
    named = {f"stage{number}": stage for number, stage in enumerate(stages)}
    return parse_recipe({"model": model, "stages": named}, "test")


def refusals(recipe, *places):
    """What a dry run and a run say."""
    said = []
    for start in (lambda: plan_run(recipe, *places, 1), lambda: train(recipe, *places)):
        with pytest.raises(VistuneError) as caught:
            start()
        said.append(str(caught.value))
    return said


SHORT = {"max_length": 512}


@pytest.mark.parametrize(
    ("model", "stages", "message"),
    [
        ({"max_length": 4096}, [{}], "model.max_length: 4096 tokens"),
        ({**SHORT, "vision_layer": 9}, [{}], "vision_layer 9: this encoder"),
        (SHORT, [{}, {"template": "v9"}], "v9"),
        (SHORT, [{"data": {"date.json": 1}}], "date.json: no such file.*Did you mean data.json"),
        (SHORT, [{"data": {"data.json": {"images": "none"}}}], "none: no such folder of"),
        (SHORT, [{"validation": {"data": "val.json"}}], "val.json: no such file that can be read"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(parts, data, images, tmp_path, model, stages, message):
    planned, ran = refusals(
        recipe_of({**parts, **model}, *({**STAGE, **stage} for stage in stages)),
        data,
        images,
        tmp_path / "run",
    )
    assert planned == ran
    assert re.search(message, planned)
    assert not (tmp_path / "run").exists()


def test_what_start_from_contradicts_is_refused_by_both(checkpoint, data, images, tmp_path):
    recipe = recipe_of({"start_from": str(checkpoint), "connector": "linear"})
    planned, ran = refusals(recipe, data, images, tmp_path / "run")
    assert planned == ran and "model.connector: the recipe says 'linear'" in planned


def test_a_folder_that_a_run_would_refuse_is_refused_by_both(parts, data, images, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    planned, ran = refusals(recipe_of({**parts, "max_length": 512}), data, images, tmp_path)
    assert planned == ran and "not an empty folder" in planned


def test_data_is_looked_at_before_the_hub_is_asked(tmp_path, data, images, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(model_parts, "read_config", asked)
    recipe = recipe_of({"vision": "some/encoder", "llm": "some/llm"})
    planned, ran = refusals(recipe, tmp_path / "nowhere", images, tmp_path / "run")
    assert planned == ran and "nowhere: no such folder" in planned


def test_a_run_takes_what_a_dry_run_prepared(parts, data, images, tmp_path, monkeypatch, capsys):
    stages = [STAGE, {**STAGE, "trains": ["connector", "llm"]}]
    recipe = recipe_of({**parts, "template": "short", "max_length": 512}, *stages)
    plan_run(recipe, data, images, tmp_path / "run", 1)
    told = capsys.readouterr()
    assert "stage stage1" in told.out and "[[" in told.out and "stage stage1" not in told.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["cache"]
    monkeypatch.setattr("vistune.data.corpus.prepare", lambda *_: pytest.fail("prepared again"))
    train(recipe, data, images, tmp_path / "run")
    plan_run(recipe, data, images, tmp_path / "run", 1)  # of a run that is there already


def test_hours_and_memory_are_told_for_a_gpu_that_is_not_here(parts, data, images, tmp_path, capsys):
    recipe = recipe_of({**parts, "template": "short", "max_length": 512})
    recipe = recipe.model_copy(update={"precision": "bfloat16"})
    plan_run(recipe, data, images, tmp_path / "run", 2, "rtx4090", None)
    told = capsys.readouterr().out
    assert (
        "fits into a device of 24 GiB" in told
        and "less than a minute on 2 x RTX 4090, at 40% of 165 TFLOP/s" in told
    )
    assert "disk: at most" in told and "are free" in told
    plan_run(recipe, data, images, tmp_path / "run", 1, "h100", 12)
    assert "fits into a device of 12 GiB" in capsys.readouterr().out


def test_what_fit_leaves_to_the_device_is_told(parts, data, images, tmp_path, capsys):
    recipe = recipe_of({**parts, "template": "short", "max_length": 512})
    recipe = recipe.model_copy(update={"precision": "bfloat16", "run": RunRecipe(fit=True)})
    plan_run(recipe, data, images, tmp_path / "run", 1, "rtx4090")
    assert "run.fit: rows of 16,384 tokens, activations kept, layers compiled" in capsys.readouterr().out
    plan_run(recipe, data, images, tmp_path / "run", 1)  # here, on the CPU
    planned = capsys.readouterr().out
    train(recipe, data, images, tmp_path / "run")
    for told in (planned, capsys.readouterr().err):
        assert "run.fit: rows of 4,096 tokens, activations kept\n" in told


def test_an_unknown_gpu_is_refused_before_anything_is_read(parts, tmp_path):
    with pytest.raises(VistuneError, match="--gpu voodoo: not known; choose one of: h200"):
        plan_run(recipe_of(parts), tmp_path / "no", tmp_path / "no", tmp_path / "run", 1, "voodoo")


def test_what_start_from_stores_holds_in_every_stage(checkpoint, data, images, tmp_path, capsys):
    """Its template in the preview and in the second stage, its max_length in the data."""
    recipe = recipe_of({"start_from": str(checkpoint)}, {**STAGE, "template": "plain"}, STAGE)
    assert settle(recipe).model.template == "short"
    plan_run(recipe, data, images, tmp_path / "run", 1)
    first, second = capsys.readouterr().out.split("stage stage1")
    assert "USER" not in first and "USER" in second
    last = train(recipe, data, images, tmp_path / "run")
    stored = json.loads((last / "vistune.json").read_text())["model"]
    assert (stored["template"], stored["max_length"]) == ("short", 80)
    assert (stored["connector"], stored["vision"]) == ("mlp2x_gelu", "tiny")
    whole = train(recipe_of({"start_from": str(checkpoint), "max_length": 500}), data, images, tmp_path / "w")
    rows = [read_all_metrics(folder, recipe)["stage0"][0] for folder in (tmp_path / "run", whole.parents[1])]
    assert rows[0]["supervised"] < rows[1]["supervised"]


def test_a_finished_stage_needs_neither_its_data_nor_the_parts(parts, data, images, tmp_path, monkeypatch):
    here = shutil.copytree(data, tmp_path / "data")
    shutil.copy(here / "data.json", here / "first.json")
    stages = [{**STAGE, "data": {"first.json": 1}}, STAGE]
    recipe = recipe_of({**parts, "template": "short", "max_length": 512}, *stages)
    last = train(recipe, here, images, tmp_path / "run")
    shutil.rmtree(last.parent)
    (here / "first.json").unlink()
    monkeypatch.setattr("vistune.train.loop.check_model", lambda _: pytest.fail("parts were asked for"))
    assert train(recipe, here, images, tmp_path / "run") == last


def test_fewer_samples_than_processes_are_refused():
    check_size("align", 4, 4)
    with pytest.raises(VistuneError, match="stage align: an epoch has 3 samples, fewer than the 4 processes"):
        check_size("align", 3, 4)


def test_a_dry_run_for_more_devices_than_samples_is_refused(parts, data, images, tmp_path):
    with pytest.raises(VistuneError, match="an epoch has 8 samples, fewer than the 9 processes"):
        plan_run(recipe_of({**parts, "max_length": 512}), data, images, tmp_path / "run", 9)
