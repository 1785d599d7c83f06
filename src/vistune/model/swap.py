"""A folder replaced by another, whole at every moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def swap(scratch: Path, folder: Path) -> None:
    """Put ``scratch`` in ``folder``'s place; at every moment one of both is whole."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(scratch, folder)
    shutil.rmtree(old, ignore_errors=True)


def undo_broken_swap(folder: Path) -> None:
    """Where a process was killed within :func:`swap`, take the old checkpoint back."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        os.replace(old, folder)
