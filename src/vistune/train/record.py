"""``run.json``: what a run must match to resume, and how it came about."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vistune import __version__
from vistune.errors import VistuneError
from vistune.folders import RUN, check_claim, claim
from vistune.model.fingerprint import hash_file
from vistune.progress import say
from vistune.recipe import Recipe, apply_overrides, parse_recipe
from vistune.train.check import CACHE
from vistune.train.parallel import Team

_NOTES = ("given", "hashes", "starts", "stages")  # everything else must match on resume
_LOCK, _LIBRARY = "run.lock", "linear_library"


def check_out(recipe: Recipe, data: Path, images: Path, out: Path) -> None:
    """Raise VistuneError if ``out`` cannot become, or go on with, this run."""
    check_claim(out, RUN, _identity(recipe, data, images), [CACHE], _NOTES)


@contextmanager
def begun(recipe: Recipe, data: Path, images: Path, out: Path, team: Team) -> Iterator[None]:
    """Make ``out`` the run's folder, or find that it is; note where, when and with what it starts.

    Meanwhile no other process may train the same run: killing ``torchrun`` may leave its processes behind.

    Raises:
        VistuneError: ``out`` holds a run of another recipe or other data, or is in use.
    """
    claim(out, RUN, _identity(recipe, data, images), [CACHE], _NOTES)
    lock = FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise VistuneError(
            f"{out}: another process trains this run. Wait until it ends, or end it; a killed torchrun "
            "leaves processes behind: pgrep -af vistune."
        ) from error
    try:
        _note_start(recipe, data, out, team)
        yield
    finally:
        lock.release()


def _note_start(recipe: Recipe, data: Path, out: Path, team: Team) -> None:
    whole = json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()
    # Of finished stages, files may be gone.
    files = {name: _hash_file(data / name) for name in _files(recipe) if (data / name).is_file()}

    def note(kept: dict[str, Any]) -> None:
        before = kept.get("hashes", {}).get("data", {})
        for name in files:
            if before.get(name, files[name]) != files[name]:
                say(f"{data / name}: is not what it was when this run began; what is learned may differ")
        kept["given"] = recipe.model_dump(mode="json", exclude_unset=True)
        kept["hashes"] = {
            "recipe": f"sha256:{hashlib.sha256(whole).hexdigest()}",
            "data": {**before, **files},
        }
        kept.setdefault("starts", []).append(_start(team))
        kept.setdefault("stages", {})

    _change(out, note)


def note_stage(out: Path, stage: str, seconds: float | None = None) -> None:
    """Note that ``stage`` starts; or that it is finished, and the seconds that went into it."""

    def note(kept: dict[str, Any]) -> None:
        times = kept["stages"].setdefault(stage, {"start": _now()})
        if seconds is not None:
            times |= {"end": _now(), "seconds": round(seconds, 2)}

    _change(out, note)


def linear_library(out: Path, choose: Callable[[str | None], str]) -> str:
    """Return what linear layers are multiplied by on the CPU, and note it beside the start.

    Libraries round differently, and a resumed run must equal an uninterrupted one: so it takes what the run's
    beginning took, whatever is faster now. On another processor it chooses anew.

    Args:
        choose: takes what the run's beginning took, None if there is nothing to keep to, and decides.
    """
    taken = ""

    def note(kept: dict[str, Any]) -> None:
        nonlocal taken
        now = kept["starts"][-1]
        known = [start for start in kept["starts"] if _LIBRARY in start]
        before = known[-1] if known else None
        if before and before["machine"]["cpu"] != now["machine"]["cpu"]:
            then, here = before["machine"]["cpu"], now["machine"]["cpu"]
            say(f"{out}: was begun on {then} and is resumed on {here}: sums may be rounded otherwise")
            before = None
        now[_LIBRARY] = taken = choose(before[_LIBRARY] if before else None)

    _change(out, note)
    return taken


def read_run(folder: Path, overrides: list[str] | None = None) -> tuple[Recipe, Path, Path]:
    """Return recipe, data and pictures of the run in ``folder``, to resume it.

    Args:
        overrides: settings to change; what is learned may not change.

    Raises:
        VistuneError: it is not a run's folder, or its paths are relative to another folder than this.
    """
    path = folder / RUN
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        content, data, images = kept["given"], Path(kept["data"]), Path(kept["images"])
        begun = kept["starts"][-1]["folder"]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise VistuneError(f"{path}: is not the record of a run ({error}).") from error
    missing = [place for place in (data, images) if not place.is_absolute() and not place.exists()]
    if missing and Path(begun) != Path.cwd():
        raise VistuneError(
            f"{missing[0]}: not found here. The run's paths are relative to the folder it was started in: "
            f"cd {begun}"
        )
    return parse_recipe(apply_overrides(content, overrides or []), str(path)), data, images


def _identity(recipe: Recipe, data: Path, images: Path) -> dict[str, Any]:
    """Return what must not change on resume. How it is computed may, but for the order of samples."""
    learned = recipe.model_dump(mode="json", exclude={"run"})
    learned["share_images"] = recipe.run.share_images
    return {"recipe": learned, "data": str(data), "images": str(images)}


def _files(recipe: Recipe) -> list[str]:
    """Return the data files of all stages, those of validation included."""
    files: dict[str, None] = {}
    for stage in recipe.stages.values():
        held_out = stage.validation
        asked = [held_out.questions] if held_out and held_out.questions else []
        files |= dict.fromkeys([*stage.data, *(held_out.data if held_out else ()), *asked])
    return list(files)


def _start(team: Team) -> dict[str, Any]:
    import torch
    import transformers

    cuda = torch.cuda.is_available()
    return {
        "time": _now(),
        "folder": str(Path.cwd()),
        "versions": {
            "vistune": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": {
            "host": platform.node(),
            "cpu": processor(),
            "cores": os.cpu_count(),
            "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if cuda else [],
            "processes": team.size,
        },
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Return the commit of the folder that the run is started in, and whether files differ from it."""

    def ask(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None


def processor() -> str:
    """Return the processor's name as the system has it, for example ``AMD EPYC 9124``."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:  # not Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _hash_file(path: Path) -> str:
    try:
        return f"sha256:{hash_file(path)}"
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the data folder.") from error


def _change(out: Path, work: Callable[[dict[str, Any]], None]) -> None:
    path = out / RUN
    kept = json.loads(path.read_text(encoding="utf-8"))
    work(kept)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
