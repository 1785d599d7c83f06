"""A run on tiny parts: what it leaves, that it can go on, and what it refuses."""

import errno
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vistune.errors import VistuneError
from vistune.recipe import LoraRecipe, RunRecipe, parse_recipe
from vistune.train import loop, saves, stage_run
from vistune.train.loop import read_all_metrics, train
from vistune.train.parallel import Team

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


@pytest.fixture
def recipe(parts):
    return make_recipe(parts)


def make_recipe(parts, **align):
    model = {**parts, "template": "short", "max_length": 512}
    return parse_recipe(
        {"model": model, "stages": {"align": {**ALIGN, **align}, "instruct": INSTRUCT}}, "test"
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


def only(state, ending):
    """The first weight whose name ends so."""
    return next(state[name] for name in sorted(state) if name.endswith(ending))


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
    take_step = stage_run.optimizer_step
    calls = []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 5:  # in the middle of the second stage
            raise KeyboardInterrupt
        return take_step(*args)

    monkeypatch.setattr(stage_run, "optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, images, tmp_path / "parted")
    monkeypatch.setattr(stage_run, "optimizer_step", take_step)
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


def test_bfloat16_leaves_frozen_weights_as_they_were(parts, data, images, tmp_path):
    recipe = make_recipe(parts).model_copy(update={"precision": "bfloat16"})
    last = train(recipe, data, images, tmp_path / "run")
    first, second = weights(tmp_path / "run" / "align" / "checkpoint"), weights(last)
    for part, name, then in (("llm", "layers.0.mlp.up_proj.weight", first), ("vision", "fc1.weight", second)):
        original = weights(Path(parts[part]))
        assert torch.equal(only(then, name), only(original, name))
    assert all(math.isfinite(loss) for rows in losses(tmp_path / "run", recipe).values() for loss in rows)


@pytest.mark.parametrize(
    "run", [{"features": "cache"}, {"checkpoint_activations": True}, {"row_tokens": 200}, {"fit": True}]
)
def test_how_it_is_computed_does_not_change_what_is_learned(parts, data, images, tmp_path, run):
    recipe = make_recipe(parts)
    train(recipe, data, images, tmp_path / "plain")
    other = recipe.model_copy(update={"run": RunRecipe(**run)})
    train(other, data, images, tmp_path / "other")
    for stage, expected in losses(tmp_path / "plain", recipe).items():
        assert losses(tmp_path / "other", recipe)[stage] == pytest.approx(expected, rel=1e-5)


def test_adapters_are_trained_and_merged(parts, data, images, tmp_path):
    pytest.importorskip("peft", reason="needs peft: pip install 'vistune[lora]'")
    recipe = make_recipe(parts)
    lora = LoraRecipe(rank=2, alpha=4, dropout=0.1)
    stages = {**recipe.stages, "instruct": recipe.stages["instruct"].model_copy(update={"lora": lora})}
    run = RunRecipe(save_steps=2)
    last = train(recipe.model_copy(update={"stages": stages, "run": run}), data, images, tmp_path / "run")
    first, second = weights(tmp_path / "run" / "align" / "checkpoint"), weights(last)
    assert first.keys() == second.keys()
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert any("q_proj" in key for key in changed)
    assert not any("embed_tokens" in key or "lm_head" in key or "norm" in key for key in changed)


def test_adapters_go_on_from_a_save_as_if_nothing_had_happened(parts, data, images, tmp_path, monkeypatch):
    pytest.importorskip("peft", reason="needs peft: pip install 'vistune[lora]'")
    recipe = make_recipe(parts)
    lora = LoraRecipe(rank=2, alpha=4, dropout=0.1)
    stage = recipe.stages["instruct"].model_copy(update={"lora": lora, "max_steps": 4})
    recipe = recipe.model_copy(update={"stages": {"instruct": stage}, "run": RunRecipe(save_steps=2)})
    train(recipe, data, images, tmp_path / "whole")
    take_step, calls = stage_run.optimizer_step, []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 4:  # a step after the save
            raise KeyboardInterrupt
        return take_step(*args)

    monkeypatch.setattr(stage_run, "optimizer_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, images, tmp_path / "parted")
    monkeypatch.setattr(stage_run, "optimizer_step", take_step)
    train(recipe, data, images, tmp_path / "parted")
    assert losses(tmp_path / "parted", recipe) == losses(tmp_path / "whole", recipe)
    whole, parted = (weights(tmp_path / run / "instruct" / "checkpoint") for run in ("whole", "parted"))
    assert all(torch.equal(whole[key], parted[key]) for key in whole)


# Measured on a CPU with torch 2.13 and transformers 5.23. A change that alters these losses alters what is
# learned: say so, and why, where you write new ones.
GOLDEN = {"align": [7.263968, 7.168552, 7.364405], "instruct": [7.207345, 7.251741, 7.045678]}


def test_losses_are_those_that_they_were(recipe, data, images, tmp_path):
    train(recipe, data, images, tmp_path / "run")
    for stage, expected in GOLDEN.items():
        assert losses(tmp_path / "run", recipe)[stage] == pytest.approx(expected, rel=1e-4)


def test_a_full_disk_at_a_save_leaves_the_save_before(recipe, data, images, tmp_path, monkeypatch):
    saved = saves.dcp.async_save
    calls = []

    def full(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return saved(*args, **kwargs)

    monkeypatch.setattr(saves.dcp, "async_save", full)
    every = recipe.model_copy(update={"run": RunRecipe(save_steps=1)})
    with pytest.raises(VistuneError, match=r"step-000002: cannot be written \(No space left.*run\.keep"):
        train(every, data, images, tmp_path / "run")
    kept = tmp_path / "run" / "align" / "saves"
    assert [path.name for path in kept.iterdir()] == ["step-000001"]
    assert saves.is_save(kept / "step-000001")
    monkeypatch.setattr(saves.dcp, "async_save", saved)
    train(every, data, images, tmp_path / "run")
    train(recipe, data, images, tmp_path / "whole")
    assert losses(tmp_path / "run", recipe) == losses(tmp_path / "whole", recipe)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("you can't allocate memory: 9 bytes")],
)
def test_out_of_memory_says_what_to_change(recipe, data, images, tmp_path, monkeypatch, error):
    def exhausted(*args):
        raise error

    monkeypatch.setattr(stage_run, "optimizer_step", exhausted)
    with pytest.raises(VistuneError, match=r"run\.row_tokens` below 4096, `run\.checkpoint_activations"):
        train(recipe, data, images, tmp_path / "run")


def test_other_errors_of_a_step_are_not_explained_away(recipe, data, images, tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(stage_run, "optimizer_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(recipe, data, images, tmp_path / "run")


def test_a_large_seed_is_taken_and_one_beyond_63_bits_refused(parts, data, images, tmp_path):
    recipe = make_recipe(parts, max_steps=1)
    stages = {"align": recipe.stages["align"]}
    train(recipe.model_copy(update={"seed": 2**63 - 1, "stages": stages}), data, images, tmp_path / "run")
    with pytest.raises(VistuneError, match="seed: Input should be less than"):
        parse_recipe({**recipe.model_dump(), "seed": 2**63}, "test")


def test_processes_that_would_do_different_things_end_with_a_message(monkeypatch):
    team = Team(1, 2, torch.device("cpu"), distributed=True)
    monkeypatch.setattr(Team, "gather", lambda self, value: ["first", value])
    team.agree("the order", "first")
    with pytest.raises(VistuneError, match="the order: process 1 found second, process 0 found first"):
        team.agree("the order", "second")


def test_the_others_end_when_the_leader_fails(monkeypatch):
    told = []
    monkeypatch.setattr(Team, "gather", lambda self, value: [*told, value])
    with pytest.raises(OSError), Team(0, 2, torch.device("cpu"), distributed=True).leader_first():
        raise OSError
    told.append(False)
    with (
        pytest.raises(VistuneError, match="Process 0 failed"),
        Team(1, 2, torch.device("cpu"), distributed=True).leader_first(),
    ):
        raise AssertionError("the others do not begin")


def test_weights_in_4_bits_are_refused_on_several_processes(recipe):
    lora = LoraRecipe.model_validate({"quantise": "nf4"})
    stage = recipe.stages["instruct"].model_copy(update={"lora": lora})
    loop._refuse_shared_quantised(stage, 1)
    with pytest.raises(VistuneError, match="nf4 works with one process, not with 2"):
        loop._refuse_shared_quantised(stage, 2)
