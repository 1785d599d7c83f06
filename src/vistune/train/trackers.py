"""Trackers: where a stage's figures are shown, besides ``metrics.jsonl``.

Each is optional. A tracker that is not installed, cannot log in or fails later costs one line; the run goes
on without it. What a tracker calls the stage is kept in ``trackers.json``, so that a resumed stage goes on in
the same curves.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vistune.progress import say

PROJECT = "vistune"
_KEPT = "trackers.json"


class Tracker(Protocol):
    """Shows figures by step."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


@dataclass
class Stage:
    """What trackers are told of the stage that they show.

    Attributes:
        folder: the stage's, ``RUN/STAGE``.
        first: the step that comes next; later ones of an interrupted run are taken again.
        settings: the recipe.
    """

    folder: Path
    first: int
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.resolve().name}/{self.folder.name}"

    def kept(self, tracker: str, make: Callable[[], str]) -> str:
        """Return what ``tracker`` calls this stage, made when it is first asked for."""
        path = self.folder / _KEPT
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if tracker not in known:
            known[tracker] = make()
            part = path.with_suffix(".part")
            part.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
            part.replace(path)
        return str(known[tracker])


class Trackers:
    """Several trackers; one that fails is left out from then on.

    Args:
        names: of :data:`KINDS`.
        asked: whether the recipe names them; the default is not missed if it is not installed.
    """

    def __init__(self, names: Sequence[str], stage: Stage, asked: bool = True) -> None:
        self._open: dict[str, Tracker] = {}
        for name in names:
            package, make = KINDS[name]
            if not _installed(package):
                if asked:
                    say(
                        f"{name}: not installed; the run goes on without it. "
                        f"To show it there: pip install {package}"
                    )
                continue
            with self._or_without(name, "cannot be used"):
                self._open[name] = make(stage)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, tracker in list(self._open.items()):
            with self._or_without(name, "has failed"):
                tracker.log(step, scalars)

    def close(self, failed: bool = False) -> None:
        for name, tracker in list(self._open.items()):
            with self._or_without(name, "could not be closed"):
                tracker.close(failed)

    @contextlib.contextmanager
    def _or_without(self, name: str, what: str) -> Any:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
                yield
        except Exception as error:  # whatever a library of others raises
            self._open.pop(name, None)
            cause = " ".join(str(error).split())[:300] or type(error).__name__
            say(f"{name}: {what} ({cause}); the run goes on without it.")


class TensorBoard:
    """Event files in ``RUN/tensorboard/STAGE``; those from ``first`` on are dropped."""

    def __init__(self, stage: Stage) -> None:
        from torch.utils.tensorboard import SummaryWriter

        events = stage.folder.parent / "tensorboard" / stage.folder.name
        self._events = SummaryWriter(str(events), purge_step=stage.first)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run in the project ``vistune``, a group for all stages; files in ``RUN/wandb``.

    ``WANDB_MODE=offline`` needs no account. Figures are drawn over ``step``, which may be given again after
    an interruption; W&B's own counter may not.
    """

    def __init__(self, stage: Stage) -> None:
        import wandb

        # Without a key, wandb would ask on the terminal, and an unattended run would wait for ever.
        if os.environ.get("WANDB_MODE", "online") in ("online", "shared") and not wandb.login(prompt=False):
            raise RuntimeError("not logged in: run `wandb login`, or set WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=stage.kept("wandb", lambda: uuid.uuid4().hex[:8]),
            name=stage.name,
            group=stage.folder.parent.resolve().name,
            config=dict(stage.settings),
            dir=str(stage.folder.parent),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({**scalars, "step": step})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run in the experiment ``vistune``, where ``MLFLOW_TRACKING_URI`` says, else where MLflow does."""

    def __init__(self, stage: Stage) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)

        def begin() -> str:
            experiment = self._client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._client.create_experiment(name)
            run = self._client.create_run(number, run_name=stage.name)
            for key, value in _flat(stage.settings):
                self._client.log_param(run.info.run_id, key, str(value)[:500])
            return str(run.info.run_id)

        self._id = stage.kept("mlflow", begin)
        self._client.update_run(self._id, status="RUNNING")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


class Trackio:
    """A run in the project ``vistune``; on this machine, unless ``TRACKIO_SPACE_ID`` names a Space."""

    def __init__(self, stage: Stage) -> None:
        import trackio

        name = stage.kept("trackio", lambda: f"{stage.name.replace('/', '-')}-{uuid.uuid4().hex[:8]}")
        self._run = trackio.init(
            PROJECT,
            name=name,
            group=stage.folder.parent.resolve().name,
            config=dict(stage.settings),
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self, failed: bool) -> None:
        import trackio

        trackio.finish()  # not the run's own method, after which it would be ended again, aloud, at exit


KINDS: Mapping[str, tuple[str, Callable[[Stage], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
    "trackio": ("trackio", Trackio),
}


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # already imported, and without a specification of its own
        return True


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """``{"a": {"b": 1}}`` -> ``[("a.b", 1)]``; names as MLflow allows them."""
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{before}{key}"
        flat += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return flat
