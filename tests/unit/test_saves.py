"""A save: only what a run needs to resume, written while it goes on, complete whenever it is asked for."""

import errno
import os
import shutil
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from vistune import folders
from vistune.errors import VistuneError
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.recipe import parse_recipe
from vistune.train import saves as saves_module
from vistune.train import stage_run
from vistune.train.complete import export, load_save
from vistune.train.loop import train
from vistune.train.saves import Saves, is_save

WRITER = torch.distributed.checkpoint.state_dict_saver
STAGE = {
    "trains": ["connector", "llm"],
    "data": {"conversation.json": 1},
    "learning_rate": 1e-2,
    "batch_size": 4,
    "max_steps": 5,
    "epochs": 10,
}
LORA = {"rank": 2, "alpha": 4, "dropout": 0.1}


def make_recipe(parts, precision="float32", stages=None, **run):
    return parse_recipe(
        {
            "model": {**parts, "template": "short", "max_length": 512},
            "stages": stages or {"instruct": STAGE},
            "run": {"save_steps": 2, "keep": 2, **run},
            "precision": precision,
        },
        "test",
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture
def slow_disk(monkeypatch):
    """Writing takes longer than the next steps: what is written was copied before them, or is wrong."""
    write = WRITER.save

    def slow(*args, **kwargs):
        time.sleep(0.5)
        return write(*args, **kwargs)

    monkeypatch.setattr(WRITER, "save", slow)


@pytest.fixture
def checkpoints_at_saves(monkeypatch, tmp_path):
    """The folder with a whole checkpoint, written at the moment of each save."""
    runs, learn, save = [], stage_run.StageRun._learn, Saves.save

    def learning(self, checkpoint, *args):
        runs.append((self, checkpoint))
        learn(self, checkpoint, *args)

    def saving(self, step, *args, **kwargs):
        run, checkpoint = runs[-1]
        run._save(checkpoint, tmp_path / "then" / run._name / str(step))
        save(self, step, *args, **kwargs)

    monkeypatch.setattr(stage_run.StageRun, "_learn", learning)
    monkeypatch.setattr(Saves, "save", saving)
    return tmp_path / "then"


@pytest.mark.parametrize("precision, lora", [("float32", None), ("bfloat16", None), ("bfloat16", LORA)])
def test_a_save_can_be_made_the_checkpoint_of_its_step(
    parts, data, images, tmp_path, slow_disk, checkpoints_at_saves, precision, lora
):
    align = {**STAGE, "trains": ["connector"], "max_steps": 1}
    recipe = make_recipe(parts, precision, {"align": align, "instruct": {**STAGE, "lora": lora}})
    train(recipe, data, images, tmp_path / "run")
    kept = tmp_path / "run" / "instruct" / "saves" / "step-000004"
    assert {path.name for path in kept.iterdir()} == {"save.json", "state"}
    expected = checkpoints_at_saves / "instruct" / "4"
    save_checkpoint(load_save(kept), tmp_path / "complete")
    ours = (tmp_path / "complete" / "model.safetensors").read_bytes()
    assert ours == (expected / "model.safetensors").read_bytes()
    # The run was moved, and the save has another name: its content tells.
    (tmp_path / "run").rename(tmp_path / "moved")
    renamed = tmp_path / "moved" / "instruct" / "saves" / "good"
    (tmp_path / "moved" / "instruct" / "saves" / "step-000004").rename(renamed)
    export(str(renamed), tmp_path / "of-save")
    export(str(expected), tmp_path / "of-checkpoint")
    for file in (tmp_path / "of-checkpoint").iterdir():
        assert file.read_bytes() == (tmp_path / "of-save" / file.name).read_bytes(), file.name


def test_adapters_of_a_bfloat16_run_are_merged_exactly(parts, data, images, tmp_path, checkpoints_at_saves):
    stages = {"instruct": {**STAGE, "lora": LORA}}
    train(make_recipe(parts, "bfloat16", stages), data, images, tmp_path / "run")
    stored = weights(checkpoints_at_saves / "instruct" / "4")
    llm = load_file(f"{parts['llm']}/model.safetensors")
    adapted = load_save(tmp_path / "run" / "instruct" / "saves" / "step-000004").model.language_model
    deltas = {
        f"{name}.weight": module.get_delta_weight("default").detach()
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }
    assert len(deltas) == 2 * 7 and all(delta.abs().max() > 0 for delta in deltas.values())
    for name, base in llm.items():
        ours = stored[f"language_model.{name}"]
        assert ours.dtype is torch.float32
        assert torch.equal(ours, base + deltas.get(name, 0.0)), name


def test_a_save_holds_what_is_trained_and_no_more(parts, data, images, tmp_path):
    recipe = make_recipe(parts, stages={"align": {**STAGE, "trains": ["connector"]}})
    train(recipe, data, images, tmp_path / "run")
    kept = tmp_path / "run" / "align" / "saves" / "step-000004"
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    model = load_save(kept).model
    trained = sum(parameter.numel() for parameter in model.connector.parameters())
    assert 12 * trained < size < 12 * trained + 80_000  # float32, AdamW's two moments; and torch's headers
    assert 12 * trained + 80_000 < 4 * sum(parameter.numel() for parameter in model.parameters())


def test_a_write_that_fails_is_told_at_the_next_save(parts, data, images, tmp_path, monkeypatch):
    write, calls = WRITER.save, []

    def full(*args, **kwargs):
        calls.append(None)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **kwargs)

    monkeypatch.setattr(WRITER, "save", full)
    recipe = make_recipe(parts, save_steps=1)
    with pytest.raises(VistuneError, match=r"step-000002: cannot be written \(No space left"):
        train(recipe, data, images, tmp_path / "run")
    kept = tmp_path / "run" / "instruct" / "saves"
    assert [path.name for path in kept.iterdir()] == ["step-000001"] and is_save(kept / "step-000001")
    train(recipe, data, images, tmp_path / "run")
    train(recipe, data, images, tmp_path / "whole")
    ours, theirs = (weights(tmp_path / run / "instruct" / "checkpoint") for run in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_last_save_of_a_stage_may_fail(parts, data, images, tmp_path, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WRITER, "save", full)
    last = train(make_recipe(parts, save_steps=4), data, images, tmp_path / "run")
    assert load_checkpoint(last) and not (last.parent / "saves").exists()
    assert "step-000004: cannot be written (No space left" in " ".join(capsys.readouterr().err.split())


def test_without_room_nothing_is_written(parts, data, images, tmp_path, monkeypatch):
    calls = []

    def usage(path):
        calls.append(path)
        free = 10**12 if len(calls) == 1 else 1000
        return shutil._ntuple_diskusage(10**12, 10**12 - free, free)

    monkeypatch.setattr(folders.shutil, "disk_usage", usage)
    monkeypatch.setattr(saves_module.dcp, "async_save", refuse_second(saves_module.dcp.async_save))
    with pytest.raises(VistuneError, match=r"step-000004: cannot be written .* are needed, 1,000 bytes are"):
        train(make_recipe(parts), data, images, tmp_path / "run")
    kept = tmp_path / "run" / "instruct" / "saves"
    assert [path.name for path in kept.iterdir()] == ["step-000002"] and is_save(kept / "step-000002")


def refuse_second(work):
    calls = []

    def once(*args, **kwargs):
        calls.append(None)
        assert len(calls) == 1
        return work(*args, **kwargs)

    return once


def test_a_full_disk_leaves_the_save_before(parts, data, images, tmp_path):
    """A disk that is full indeed: 6 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        recipe = make_recipe(parts, stages={"instruct": {**STAGE, "max_steps": 50}}, save_steps=1, keep=50)
        with pytest.raises(VistuneError, match=r"cannot be written \(.*needed.*free\)"):
            train(recipe, data, images, disk / "run")
        kept = sorted((disk / "run" / "instruct" / "saves").iterdir())
        assert kept and all(is_save(path) for path in kept)
        assert load_save(kept[-1]).model
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_is_stored_beside_the_state_comes_back(parts, data, images, tmp_path, monkeypatch):
    save, load, loaded = Saves.save, Saves.load, []
    steps = stage_run.optimizer_step
    monkeypatch.setattr(Saves, "save", lambda *args: save(*args[:-1], {**args[-1], "note": "kept"}))

    def loading(*args):
        loaded.append(load(*args))
        return loaded[-1]

    monkeypatch.setattr(Saves, "load", loading)
    calls = []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return steps(*args)

    monkeypatch.setattr(stage_run, "optimizer_step", interrupted)
    for _ in range(2):
        try:
            train(make_recipe(parts), data, images, tmp_path / "run")
        except KeyboardInterrupt:
            assert not loaded
    assert loaded == [{"broken": {}, "note": "kept"}]
