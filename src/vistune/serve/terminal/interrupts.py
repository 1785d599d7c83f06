"""Ctrl-C at a terminal: it stops an answer, not the program."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While entered, Ctrl-C raises KeyboardInterrupt, as in Python; but within :meth:`noted` the first one is
    only noted, and another does what it did before.

    Attributes:
        came: one was noted.
    """

    def __init__(self) -> None:
        self.came = False
        self._noting = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def noted(self) -> Iterator[None]:
        self.came, self._noting = False, True
        try:
            yield
        finally:
            self._noting = False

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._noting:
            raise KeyboardInterrupt
        if self.came and callable(self._before):
            self._before(number, frame)
        self.came = True
