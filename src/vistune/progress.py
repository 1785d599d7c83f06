"""Progress of long work: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 10.0
# Of many processes (torchrun sets RANK) only the first speaks.
console = Console(stderr=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")
_results = Console(highlight=False, quiet=console.quiet)


class Meter(Protocol):
    """What long work tells as it goes on."""

    def advance(self, note: str = "", by: int = 1) -> None: ...


def say(text: str) -> None:
    """Tell the user something; standard output stays free for results."""
    console.print(text, markup=False)


def show(line: str | Text) -> None:
    """Print a line of a result, which may be coloured, to standard output."""
    _results.print(line, markup=False, soft_wrap=True)


def track(items: Iterable[Item], task: str, total: int) -> Iterator[Item]:
    """Yield ``items`` and show how far along they are."""
    with meter(task, total) as progress:
        for item in items:
            yield item
            progress.advance()


@contextmanager
def meter(task: str, total: int, done: int = 0) -> Iterator[Meter]:
    """A meter that is advanced by hand, ``total`` times; ``done`` of them were before."""
    if not sys.stderr.isatty():
        lines = _Lines(task, total, done)
        yield lines
        lines.finish()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task(task, total=total, completed=done, note=""))


class _Bar:
    def __init__(self, bar: Progress, task: object) -> None:
        self._bar, self._task = bar, task

    def advance(self, note: str = "", by: int = 1) -> None:
        self._bar.update(self._task, advance=by, note=note)  # type: ignore[arg-type]


class _Lines:
    """One plain line every few seconds, and one at the end."""

    def __init__(self, task: str, total: int, done: int) -> None:
        self._task, self._total, self._done, self._before = task, total, done, done
        self._start = self._last = time.monotonic()
        self._note = ""

    def advance(self, note: str = "", by: int = 1) -> None:
        self._done, self._note = self._done + by, note
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            each = (self._last - self._start) / (self._done - self._before)
            left = each * (self._total - self._done)
            say(f"{self._task}: {self._done}/{self._total}, {left:.0f} s left{self._suffix()}")

    def finish(self) -> None:
        seconds = time.monotonic() - self._start
        say(f"{self._task}: {self._done}/{self._total} in {seconds:.1f} s{self._suffix()}")

    def _suffix(self) -> str:
        return f", {self._note}" if self._note else ""
