"""What people think of the answers, kept as JSON lines where the operator wants that."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from vistune.errors import VistuneError

MOST_BYTES = 1_000_000_000  # of the file
_MOST_LINE = 1_000_000


class FullError(Exception):
    """The file of votes takes no more."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Said(_Strict):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=100_000)]


class Judged(_Strict):
    """An answer, and the conversation that it ends; pictures are not kept."""

    model: Annotated[str, Field(max_length=200)]
    messages: Annotated[list[Said], Field(max_length=2_000)]
    answer: Annotated[str, Field(max_length=100_000)]


class Vote(_Strict):
    """On one answer: ``up``, ``down``, ``flag``; on two side by side: ``left``, ``right``, ``tie``,
    ``neither``, or a flag."""

    vote: Literal["up", "down", "flag", "left", "right", "tie", "neither"]
    answers: Annotated[list[Judged], Field(min_length=1, max_length=2)]


class Votes:
    """Appends votes to a file, whoever else does so.

    Raises:
        VistuneError: the file cannot be written.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = path, most_bytes
        self._lock = FileLock(f"{path}.lock", thread_local=False)
        self._threads = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            open(path, "ab").close()
        except OSError as error:
            raise VistuneError(
                f"{path}: votes cannot be stored there ({error.strerror}). Check the path."
            ) from error

    def append(self, vote: Vote) -> None:
        """Write one line, whole or not at all.

        Raises:
            FullError: the line or the file would be too long, or the disk is full.
        """
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = (json.dumps({"time": now, **vote.model_dump()}) + "\n").encode("ascii")
        if len(line) > _MOST_LINE:
            raise FullError("The vote is too long to be kept.")
        with self._threads, self._lock, open(self._path, "ab", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            if end + len(line) > self._most:
                raise FullError("No more votes are kept.")
            try:
                whole = file.write(line) == len(line)
            except OSError as error:
                file.truncate(end)
                raise FullError("No more votes can be kept.") from error
            if not whole:
                file.truncate(end)
                raise FullError("No more votes can be kept.")
