"""``run.json``, and a run's folder given in the place of a recipe or a checkpoint."""

import contextlib
import hashlib
import json

import pytest
import torch
from typer.testing import CliRunner

from tests.tiny import save_tiny_parts
from vistune.cli.app import app
from vistune.cli.main import COMMANDS
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.errors import VistuneError
from vistune.model import cpu_linear
from vistune.model.checkpoint import is_ours, load_checkpoint
from vistune.model.fingerprint import fingerprint
from vistune.recipe import parse_recipe
from vistune.train import record, stage_run
from vistune.train.loop import read_all_metrics, train
from vistune.train.record import read_run

assert COMMANDS  # each adds its commands to the app
STAGE = {
    "trains": ["connector"],
    "data": {"conversation.json": 1},
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_steps": 4,
    "epochs": 9,
}


@pytest.fixture
def data(tmp_path, world_annotations):
    settings = GenerationSettings(seed=0, picture="first")
    generate(world_annotations, OfflineTeacher(world_annotations.categories), tmp_path / "data", settings)
    return tmp_path / "data"


@pytest.fixture
def recipe(tmp_path, tokenizer):
    model = {**save_tiny_parts(tmp_path, tokenizer), "template": "short", "max_length": 512}
    stages = {"align": STAGE, "instruct": {**STAGE, "trains": ["connector", "llm"]}}
    return parse_recipe({"model": model, "stages": stages, "run": {"save_steps": 2}}, "test")


@pytest.fixture
def images(tiny_world):
    return tiny_world / "images"


def interrupt(monkeypatch, step):
    take, calls = stage_run.optimizer_step, []

    def interrupted(*args, **kwargs):
        calls.append(None)
        if len(calls) == step:
            raise KeyboardInterrupt
        return take(*args, **kwargs)

    monkeypatch.setattr(stage_run, "optimizer_step", interrupted)


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, VistuneError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_runs_folder_resumes_it_and_stands_for_its_checkpoint(
    recipe, data, images, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    train(recipe, data, images, tmp_path / "whole")
    interrupt(monkeypatch, 8)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, images, out)
    with pytest.raises(VistuneError, match=r"last stage, instruct, is not finished. Resume it"):
        load_checkpoint(out)
    assert invoke("train", out, "run.row_tokens=700").split() == [str(out / "instruct" / "checkpoint")]
    whole, resumed = (read_all_metrics(tmp_path / name, recipe) for name in ("whole", "run"))
    for stage in recipe.stages:
        assert [row["loss"] for row in resumed[stage]] == pytest.approx(
            [r["loss"] for r in whole[stage]], rel=1e-5
        )
    assert is_ours(out) and fingerprint(out) == fingerprint(out / "instruct" / "checkpoint")
    loaded, last = load_checkpoint(out).model, load_checkpoint(out / "instruct" / "checkpoint").model
    assert torch.equal(loaded.connector.layers[0].weight, last.connector.layers[0].weight)
    with pytest.raises(VistuneError, match=r"holds a run with another recipe"):
        invoke("train", out, "stages.align.epochs=2")
    with pytest.raises(VistuneError, match=r"a run, which knows its data"):
        invoke("train", out, "--data", data)
    with pytest.raises(VistuneError, match=r"--data, --images and --out are needed"):
        invoke("train", "starter")


def test_the_record_tells_how_the_run_came_about(recipe, data, images, tmp_path, monkeypatch):
    out = tmp_path / "run"
    interrupt(monkeypatch, 7)
    for _ in range(2):
        try:
            train(recipe, data, images, out)
        except KeyboardInterrupt:
            unfinished = json.loads((out / "run.json").read_text())
            assert unfinished["stages"].keys() == {"align", "instruct"}
            assert unfinished["stages"]["instruct"].keys() == {"start"}
    kept = json.loads((out / "run.json").read_text())
    content = (data / "conversation.json").read_bytes()
    assert kept["hashes"]["data"] == {"conversation.json": f"sha256:{hashlib.sha256(content).hexdigest()}"}
    first, second = kept["starts"]
    assert first["versions"].keys() == {"vistune", "python", "torch", "transformers"}
    assert second["machine"]["processes"] == 1 and second["machine"]["cpu"] and "git" in second
    assert kept["stages"]["align"] == unfinished["stages"]["align"]
    assert kept["stages"]["instruct"]["start"] == unfinished["stages"]["instruct"]["start"]
    for times in kept["stages"].values():
        assert times["seconds"] > 0 and times["start"] <= times["end"]


def test_data_that_has_changed_is_told(recipe, data, images, tmp_path, capsys):
    train(recipe, data, images, tmp_path / "run")
    records = json.loads((data / "conversation.json").read_text())
    (data / "conversation.json").write_text(json.dumps(records[1:]))
    train(recipe, data, images, tmp_path / "run")
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("is not what it was when this run began") == 1


def test_paths_of_another_folder_are_told(recipe, data, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(recipe, data.relative_to(tmp_path), images, tmp_path / "run")
    assert read_run(tmp_path / "run")[1].is_dir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(VistuneError, match=rf"data: not found here.*cd {tmp_path}$"):
        read_run(tmp_path / "run")


def test_a_run_that_starts_from_a_checkpoint_resumes_too(recipe, data, images, tmp_path):
    """What the checkpoint stores is not in the recipe, and must not seem to be."""
    first = train(recipe, data, images, tmp_path / "first")
    stages = {"more": {**STAGE, "template": "short"}}
    again = parse_recipe({"model": {"start_from": str(first)}, "stages": stages}, "test")
    train(again, data, images, tmp_path / "run")
    assert invoke("train", tmp_path / "run").split() == [str(tmp_path / "run" / "more" / "checkpoint")]


def test_two_runs_in_one_folder_at_a_time_are_refused(recipe, data, images, tmp_path, monkeypatch):
    out, refused = tmp_path / "run", []
    take = stage_run.optimizer_step

    def step(*args, **kwargs):
        if not refused:
            with pytest.raises(VistuneError, match=r"another process trains this run") as caught:
                train(recipe, data, images, out)
            refused.append(caught)
        return take(*args, **kwargs)

    monkeypatch.setattr(stage_run, "optimizer_step", step)
    train(recipe, data, images, out)
    assert refused
    train(recipe, data, images, out)


@pytest.mark.skipif(not cpu_linear._is_there(), reason="needs oneDNN beside MKL")
def test_a_resumed_run_multiplies_by_what_it_began_with(recipe, data, images, tmp_path, monkeypatch, capsys):
    """Whatever is faster by then; but on another processor it chooses anew."""
    out, faster, taken = tmp_path / "run", [], []
    monkeypatch.setattr(cpu_linear.CpuKernel, "_faster", lambda *_: faster[-1])
    learn = stage_run.StageRun._learn

    def noted(self, checkpoint, *rest):
        taken.append(checkpoint.model.cpu_kernel.library)
        return learn(self, checkpoint, *rest)

    monkeypatch.setattr(stage_run.StageRun, "_learn", noted)
    take = stage_run.optimizer_step
    for faster_now, processor in (("onednn", "A"), ("mkl", "A"), ("mkl", "B")):
        faster.append(faster_now)
        monkeypatch.setattr(cpu_linear, "_decided", None)
        monkeypatch.setattr(record, "processor", lambda processor=processor: processor)
        monkeypatch.setattr(stage_run, "optimizer_step", take)
        interrupt(monkeypatch, 3 if processor == "A" else 99)
        with contextlib.suppress(KeyboardInterrupt):
            train(recipe, data, images, out)
    assert taken == ["onednn", "onednn", "onednn", "mkl"]  # the second start reaches stage 2
    starts = json.loads((out / "run.json").read_text())["starts"]
    assert [start["linear_library"] for start in starts] == ["onednn", "onednn", "mkl"]
    assert "was begun on A and is resumed on B" in " ".join(capsys.readouterr().err.split())
