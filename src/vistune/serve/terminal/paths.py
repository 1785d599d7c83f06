"""Files that a line names, as people type them and as terminals write files that are dropped on them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vistune.data.images import look


def paths_in(text: str) -> list[Path]:
    """The paths in a text: all of it where that is a file; else words, quoted or escaped where they hold
    spaces. ``~`` and ``file:`` URLs are understood."""
    if os.path.isfile(whole := os.path.expanduser(text.strip())):
        return [Path(whole)]
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe, a lone backslash
        words = [text.strip()]
    return [_path(word) for word in words]


def pictures_in(line: str) -> list[Path]:
    """The pictures that a line consists of; none where it holds anything else."""
    paths = paths_in(line)
    return paths if all(os.path.isfile(path) and look(path, str(path)) is None for path in paths) else []


def one_path(text: str) -> Path:
    """A path that need not exist; spaces in it may be quoted, escaped, or neither."""
    paths = paths_in(text)
    return paths[0] if len(paths) == 1 else Path(os.path.expanduser(text.strip()))


def _path(word: str) -> Path:
    if word.startswith("file://"):
        return Path(url2pathname(urlsplit(word).path))
    return Path(os.path.expanduser(word))
