"""Trackers: each is shown the same figures, goes on where it was, and never stops a run."""

import importlib.util
import sys
import types

import pytest

from vistune.train import trackers
from vistune.train.trackers import KINDS, Stage, Trackers

SETTINGS = {"model": {"llm": "a"}, "seed": 0}


@pytest.fixture
def stage(tmp_path):
    (tmp_path / "run" / "align").mkdir(parents=True)
    return Stage(tmp_path / "run" / "align", 0, SETTINGS)


class Recorder:
    """Stands for a library: remembers every call, and raises where it is told to."""

    def __init__(self, fails=()):
        self.calls, self.fails = [], set(fails)

    def __call__(self, name, result=None):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            if name in self.fails:
                raise ConnectionError(f"no network\nin {name}")
            return result

        return call

    def of(self, name):
        return [(args, kwargs) for found, args, kwargs in self.calls if found == name]


def fake_wandb(seen, logged_in=True):
    run = types.SimpleNamespace(log=seen("log"), finish=seen("finish"), define_metric=seen("define_metric"))
    return types.SimpleNamespace(
        login=seen("login", logged_in), init=seen("init", run), Settings=lambda **given: given
    )


def fake_mlflow(seen):
    run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    client = types.SimpleNamespace(
        get_experiment_by_name=seen("get_experiment_by_name"),
        create_experiment=seen("create_experiment", "7"),
        create_run=seen("init", run),
        log_param=seen("log_param"),
        update_run=seen("update_run"),
        log_metric=seen("log"),
        set_terminated=seen("finish"),
    )
    return types.SimpleNamespace(MlflowClient=lambda: client)


def fake_trackio(seen):
    run = types.SimpleNamespace(log=seen("log"))
    return types.SimpleNamespace(init=seen("init", run), finish=seen("finish"))


def install(monkeypatch, name, seen, **settings):
    monkeypatch.setattr(trackers, "_installed", lambda package: True)
    if name == "wandb":
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.setitem(sys.modules, "wandb", fake_wandb(seen, **settings))
    elif name == "mlflow":
        monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
        monkeypatch.setitem(sys.modules, "mlflow.tracking", fake_mlflow(seen))
    else:
        monkeypatch.setitem(sys.modules, "trackio", fake_trackio(seen))


OTHERS = ("wandb", "mlflow", "trackio")


@pytest.mark.parametrize("name", OTHERS)
def test_a_resumed_stage_goes_on_in_the_same_run(monkeypatch, stage, name, capsys):
    seen = Recorder()
    install(monkeypatch, name, seen)
    for first in (0, 2):
        opened = Trackers([name], Stage(stage.folder, first, SETTINGS))
        opened.log(first, {"loss": 2.0})
        opened.close(failed=first == 0)
    assert capsys.readouterr() == ("", "")
    begun, logged, ended = seen.of("init"), seen.of("log"), seen.of("finish")
    if name == "wandb":
        assert begun[0][1]["id"] == begun[1][1]["id"] and begun[0][1]["resume"] == "allow"
        assert begun[0][1]["name"] == "run/align" and begun[0][1]["config"] == SETTINGS
        assert seen.of("define_metric")[0] == (("*",), {"step_metric": "step"})
        assert [args[0] for args, _ in logged] == [{"loss": 2.0, "step": 0}, {"loss": 2.0, "step": 2}]
        assert [kwargs["exit_code"] for _, kwargs in ended] == [1, 0]
    elif name == "mlflow":
        assert len(begun) == 1  # the second time the first one's run is taken up
        assert [(args, kwargs["step"]) for args, kwargs in logged] == [
            (("r1", "loss", 2.0), 0),
            (("r1", "loss", 2.0), 2),
        ]
        assert (("r1", "model.llm", "a"), {}) in seen.of("log_param")
        assert [args[1] for args, _ in ended] == ["FAILED", "FINISHED"]
    else:
        assert begun[0][1]["name"] == begun[1][1]["name"] and begun[0][1]["resume"] == "allow"
        assert [(args[0], kwargs["step"]) for args, kwargs in logged] == [
            ({"loss": 2.0}, 0),
            ({"loss": 2.0}, 2),
        ]


@pytest.mark.parametrize("name", KINDS)
def test_one_that_is_not_installed_is_one_line(monkeypatch, stage, name, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    opened = Trackers([name], stage)
    opened.log(0, {"loss": 1.0})
    opened.close()
    told = " ".join(capsys.readouterr().err.split())
    assert told == f"{name}: not installed; the run goes on without it. To show it there: pip install {name}"
    Trackers([name], stage, asked=False)
    assert capsys.readouterr() == ("", "")
    assert not (stage.folder.parent / "tensorboard").exists()


def test_one_that_cannot_log_in_is_one_line_and_asks_nothing(monkeypatch, stage, capsys):
    seen = Recorder()
    install(monkeypatch, "wandb", seen, logged_in=False)
    Trackers(["wandb"], stage)
    assert seen.of("login") == [((), {"prompt": False})] and not seen.of("init")
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("wandb: cannot be used (not logged in: run `wandb login`") and "goes on" in told
    monkeypatch.setenv("WANDB_MODE", "offline")
    Trackers(["wandb"], stage)
    assert len(seen.of("login")) == 1 and len(seen.of("init")) == 1


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_one_that_fails_is_one_line_and_the_others_go_on(monkeypatch, stage, name, where, capsys):
    broken, whole = Recorder(fails=[where]), Recorder()
    install(monkeypatch, name, broken)
    other = "trackio" if name != "trackio" else "mlflow"
    install(monkeypatch, other, whole)
    opened = Trackers([name, other], stage)
    for step in range(3):
        opened.log(step, {"loss": 1.0})
    opened.close()
    told = capsys.readouterr().err
    assert told.count("the run goes on") == 1 and f"no network in {where}" in " ".join(told.split())
    assert len(whole.of("log")) == 3 and len(whole.of("finish")) == 1


def test_a_broken_tensorboard_is_one_line(monkeypatch, stage, capsys):
    monkeypatch.setattr(trackers, "_installed", lambda package: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Trackers(["tensorboard"], stage, asked=False)
    assert "tensorboard: cannot be used" in capsys.readouterr().err


def test_wandb_itself_offline(monkeypatch, stage, capfd):
    pytest.importorskip("wandb", reason="needs wandb: pip install 'vistune[trackers]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first in (0, 1):
        opened = Trackers(["wandb"], Stage(stage.folder, first, SETTINGS))
        opened.log(first, {"loss": 1.0})
        opened.close()
    folders = list((stage.folder.parent / "wandb").glob("offline-run-*"))
    assert folders and len({path.name.rpartition("-")[2] for path in folders}) == 1
    assert capfd.readouterr().out == ""


def test_mlflow_itself_in_files(monkeypatch, stage, tmp_path, capsys):
    pytest.importorskip("mlflow", reason="needs mlflow: pip install 'vistune[trackers]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    for first in (0, 1):
        opened = Trackers(["mlflow"], Stage(stage.folder, first, SETTINGS))
        opened.log(first, {"loss": 1.0 + first, "held_out/loss": 3.0})
        opened.close()
    assert "goes on" not in capsys.readouterr().err
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("vistune")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(row.step, row.value) for row in history] == [(0, 1.0), (1, 2.0)]
    assert run.info.status == "FINISHED" and run.data.params["model.llm"] == "a"


def test_trackio_itself(monkeypatch, stage, tmp_path, capsys):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("needs trackio: pip install 'vistune[trackers]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for first in (0, 1):
        opened = Trackers(["trackio"], Stage(stage.folder, first, SETTINGS))
        opened.log(first, {"loss": 1.0})
        opened.close()
    told = capsys.readouterr()
    assert told.out == "" and "goes on" not in told.err
    assert (tmp_path / "trackio" / "vistune.db").exists()
    from trackio import context_vars

    assert context_vars.current_run.get() is None  # nothing is left to be said at exit
