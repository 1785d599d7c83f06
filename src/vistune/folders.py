"""Output folders: a run's own, or refused; nothing is overwritten silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vistune.errors import VistuneError

_REMEDY = "Choose another --out, or remove it first."


def claim(folder: Path, record: str, settings: dict[str, Any]) -> None:
    """Make ``folder`` the place of a run with ``settings``, or find that it is already.

    Args:
        record: name of the file that remembers the settings.

    Raises:
        VistuneError: the folder holds a run with other settings, or something else.
    """
    path = folder / record
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)  # of a run that was killed while it began
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept != settings:
            changed = sorted(key for key in kept.keys() | settings if kept.get(key) != settings.get(key))
            raise VistuneError(
                f"{folder}: holds a run with another {' and another '.join(changed)}. {_REMEDY}"
            )
        return
    refuse_used(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def refuse_used(folder: Path) -> None:
    """Raise VistuneError where ``folder`` holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VistuneError(f"{folder}: is not an empty folder. {_REMEDY}")
