"""Output folders: a run's own, or refused; nothing is overwritten silently."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vistune.errors import VistuneError

RUN = "run.json"  # in a training run's folder
_REMEDY = "Choose another --out, or remove it first."


def claim(
    folder: Path,
    record: str,
    settings: dict[str, Any],
    besides: Collection[str] = (),
    notes: Collection[str] = (),
) -> None:
    """Make ``folder`` the place of a run with ``settings``, or find that it is already.

    Args:
        record: name of the file that remembers the settings.
        besides: names that a folder may hold before a run begins: what a dry run prepared.
        notes: what else the file may hold; it need not match.

    Raises:
        VistuneError: the folder holds a run with other settings, or something else.
    """
    path = folder / record
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)  # of a run that was killed while it began
    check_claim(folder, record, settings, besides, notes)
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def check_claim(
    folder: Path,
    record: str,
    settings: dict[str, Any],
    besides: Collection[str] = (),
    notes: Collection[str] = (),
) -> None:
    """Refuse what :func:`claim` refuses, and change nothing."""
    path = folder / record
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in content.items() if key not in notes}
        if kept != settings:
            changed = sorted(key for key in kept.keys() | settings if kept.get(key) != settings.get(key))
            raise VistuneError(
                f"{folder}: holds a run with another {' and another '.join(changed)}. {_REMEDY}"
            )
        return
    refuse_used(folder, {*besides, path.with_suffix(".part").name})


def refuse_used(folder: Path, besides: Collection[str] = ()) -> None:
    """Raise VistuneError where ``folder`` holds anything but ``besides``."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - set(besides)):
        raise VistuneError(f"{folder}: is not an empty folder. {_REMEDY}")


def is_run(folder: Path) -> bool:
    """Return whether ``folder`` is that of a training run, by its content."""
    return (folder / RUN).is_file()


def check_room(folder: Path, size: int) -> None:
    """Raise OSError, as a full disk would, if fewer than ``size`` bytes are free where ``folder`` is."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{_told(size)} are needed, {_told(free)} are free")


def _told(size: int) -> str:
    return f"{size:,} bytes" if size < 10**6 else f"{size / 10**9:,.3f} GB"
