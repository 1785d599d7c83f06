"""The one thread of this process that computes.

One for all models: PyTorch's helping threads belong to the thread that called for them, and as soon as there
are more of them than cores, they fall asleep between any two operations. Models that are busy at once take
turns.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LAST_WORK = 2.0  # seconds


class Worker:
    """Does what it is given, in the order in which it is given it."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._starting = Lock()

    def later(self, work: Callable[[], object]) -> None:
        """Do ``work``, which raises nothing."""
        with self._starting:
            if self._thread is None:
                self._thread = Thread(target=self._run, name="compute", daemon=True)
                self._thread.start()
                atexit.register(self._stop)  # the end of the program must not find it amid C++
        self._work.put(work)

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """What ``function`` returns or raises, as a future."""
        future: Future[_T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self.later(work)
        return future

    def _run(self) -> None:
        while work := self._work.get():
            work()

    def _stop(self) -> None:
        self._work.put(None)
        assert self._thread
        self._thread.join(_LAST_WORK)


worker = Worker()
