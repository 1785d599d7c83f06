"""What a stage needs to resume: saved every ``run.save_steps`` steps, each save whole or absent.

A save, ``saves/step-000500/``, holds ``state/``, the trained weights and the optimizer's state in torch's
distributed format, which any number of processes can read, and ``save.json``, which says how a complete
checkpoint is made of it. Order and randomness follow from the step's number.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vistune.errors import VistuneError
from vistune.folders import check_room
from vistune.model.llava import Llava
from vistune.progress import say
from vistune.train.parallel import Team

RECORD = "save.json"
_STATE = "state"
_NAME = re.compile(r"step-(\d+)")
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
_LONGEST = timedelta(hours=6)  # of one save; the others wait for the slowest disk


@dataclass
class _Writing:
    """A save that is being written in the background."""

    target: Path
    done: Future[None]


class Saves:
    """The saves of one stage. Training resumes as soon as the state is copied; a thread writes the copy.

    Args:
        folder: their folder.
        keep: maximum number of saves; the oldest are removed.
        about: what :func:`vistune.train.complete.load_save` needs to make a complete checkpoint of a save.
        begun: when the stage began, or resumed, by ``time.monotonic``.
    """

    def __init__(self, folder: Path, keep: int, team: Team, about: dict[str, Any], begun: float) -> None:
        self._folder, self._keep, self._team, self._about = folder, keep, team, about
        self._begun, self._before = begun, 0.0
        self._writing: _Writing | None = None
        # The thread's collectives must not mix with those of the steps, so they have a group of their own.
        self._group = dist.new_group(backend="gloo", timeout=_LONGEST) if dist.is_initialized() else None

    @property
    def seconds(self) -> float:
        """The seconds that went into the stage so far; what an interruption lost does not count."""
        return self._before + time.monotonic() - self._begun

    def latest(self) -> int:
        """Return the step from which an interrupted run would resume; 0 if nothing was saved.

        A save that is being written is waited for: it counts if it succeeds.
        """
        if self._writing is not None:
            self._writing.done.exception()
        return max(self._steps(), default=0)

    def save(
        self,
        step: int,
        model: Llava,
        optimizer: torch.optim.Optimizer,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Begin to save that ``step`` comes next. All processes call this.

        Returns when the state is copied; the save appears when it is written.

        Args:
            extra: stored as JSON, returned by :meth:`load`. The leader's is kept.

        Raises:
            VistuneError: no room is left, or the save before could not be written. The last good one is kept.
        """
        self.settle()
        part, target = self._folder / "part", self._folder / f"step-{step:06d}"
        state = _state(model, optimizer)
        size = int(self._team.total(_local_bytes(state)))
        self._on_leader(lambda: self._begin(part, step, size, extra or {}), target)
        try:
            written = _in_background(state, part / _STATE, self._group)
        except (OSError, dcp.api.CheckpointException) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise _unwritten(target, error) from error
        self._writing = _Writing(target, _after(written, lambda: self._commit(part, target)))

    def load(self, step: int, model: Llava, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Go back to the moment when ``step`` came next; return the save's ``extra``."""
        folder = self._folder / f"step-{step:06d}"
        state = _state(model, optimizer)
        _read(state, folder)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_TRAINED,
        )
        record = read_record(folder)
        self._before = record["seconds"]
        extra: dict[str, Any] = record["extra"]
        return extra

    def settle(self) -> None:
        """Wait until the save that is being written, if any, is on the disk. All processes call this.

        Raises:
            VistuneError: it could not be written. The one before is still there.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        error = writing.done.exception()
        if not self._team.total(float(error is not None)):
            return
        if self._team.leads:
            shutil.rmtree(self._folder / "part", ignore_errors=True)
        raise _unwritten(writing.target, error) from error

    def finish(self) -> None:
        """Remove what the stage's own checkpoint, which is written now, makes needless."""
        if not self._team.leads or not self._folder.is_dir():
            return
        steps = sorted(self._steps())
        for step in steps[: len(steps) - self._keep + 1]:
            shutil.rmtree(self._folder / f"step-{step:06d}")
        shutil.rmtree(self._folder / "part", ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    def __enter__(self) -> Saves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave no thread behind that writes. The stage's end needs no save: a failure is only reported."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        failure = writing.done.exception()
        if failure is not None:
            say(str(_unwritten(writing.target, failure)))

    def _begin(self, part: Path, step: int, size: int, extra: dict[str, Any]) -> None:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        check_room(part, size)
        record = {**self._about, "step": step, "seconds": self.seconds, "extra": extra}
        (part / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def _commit(self, part: Path, target: Path) -> None:
        """Give a save that all processes have written its name; drop the oldest. In the leader's thread."""
        if not self._team.leads:
            return
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        for old in sorted(self._steps())[: -self._keep]:
            shutil.rmtree(self._folder / f"step-{old:06d}")

    def _on_leader(self, work: Callable[[], None], target: Path) -> None:
        """Run ``work`` on the leader; if it fails, every process raises."""
        failure: Exception | None = None
        if self._team.leads:
            try:
                work()
            except OSError as error:
                failure = error
                shutil.rmtree(self._folder / "part", ignore_errors=True)
        if self._team.total(float(failure is not None)):
            raise _unwritten(target, failure) from failure

    def _steps(self) -> list[int]:
        if not self._folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [int(match[1]) for match in found if match]


def is_save(folder: Path) -> bool:
    """Return whether ``folder`` is a save, by its content."""
    return (folder / RECORD).is_file() and (folder / _STATE / ".metadata").is_file()


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a save's ``save.json`` holds."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return record


def load_trained(folder: Path, model: Llava) -> None:
    """Put a save's trained weights into ``model``, whose trained parts are set."""
    state = {"model": get_model_state_dict(model, options=_TRAINED)}
    _read(state, folder)
    set_model_state_dict(model, state["model"], options=_TRAINED)


def _state(model: Llava, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=_TRAINED)
    return {"model": weights, "optimizer": moments}


def _read(state: dict[str, Any], folder: Path) -> None:
    _hush()
    try:
        dcp.load(state, checkpoint_id=folder / _STATE)
    except (OSError, dcp.api.CheckpointException) as error:
        raise _unreadable(folder, error) from error


def _in_background(state: dict[str, Any], folder: Path, group: dist.ProcessGroup | None) -> Future[Any]:
    """Copy ``state``, then write the copy in a thread: the next step may change what was copied."""
    _hush()
    written = dcp.async_save(state, checkpoint_id=folder, process_group=group, async_stager=_Copies())
    assert isinstance(written, Future)  # of the writing: the stager has copied when it returns
    return written


class _Copies(AsyncStager):
    """Copies a state into the CPU's memory. torch's own stager cannot copy an optimizer's state of 8 bits."""

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {name: _copied(value) for name, value in state_dict.items()}

    def synchronize_staging(self) -> None:
        """Nothing is left to do: a copy is complete when it is returned."""

    def close(self) -> None:
        """Nothing is held."""
        return


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    if is_traceable_wrapper_subclass(value):  # spread over processes, or in 8 bits
        names, context = value.__tensor_flatten__()
        inner = {name: _copied(getattr(value, name)) for name in names}
        return type(value).__tensor_unflatten__(inner, context, value.size(), value.stride())
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _after(first: Future[Any], work: Callable[[], None]) -> Future[None]:
    """Return a future of ``work``, done in the thread of ``first`` if that succeeds."""
    done: Future[None] = Future()

    def go_on(finished: Future[Any]) -> None:
        try:
            finished.result()
            work()
        except BaseException as error:  # whoever waits for the future is told
            done.set_exception(error)
        else:
            done.set_result(None)

    first.add_done_callback(go_on)
    return done


def _local_bytes(state: Any) -> int:
    """Count the bytes of the tensors that this process writes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _local_tensors(state))


def _local_tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _local_tensors(value)
    elif is_traceable_wrapper_subclass(state):
        yield from _local_tensors([getattr(state, name) for name in state.__tensor_flatten__()[0]])
    elif isinstance(state, torch.Tensor):
        yield state


def _hush() -> None:
    # One process needs no process group, and torch says that it assumes so; from its thread, too.
    warnings.filterwarnings("ignore", message=".*torch.distributed is (disabled|unavailable).*")


def _unwritten(target: Path, error: BaseException | None) -> VistuneError:
    return VistuneError(
        f"{target}: cannot be written ({_cause(error)}). The save before it is whole. Make room, or lower "
        "`run.keep`, and run the same command again."
    )


def _unreadable(folder: Path, error: BaseException) -> VistuneError:
    return VistuneError(
        f"{folder}: cannot be read ({_cause(error)}). Remove it to resume from the save before it, or from "
        "the stage's beginning."
    )


def _cause(error: BaseException | None) -> str:
    """Return the system's own words if a library has wrapped them."""
    if error is None:
        return "another process failed"
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return str(getattr(error, "strerror", None) or error)
