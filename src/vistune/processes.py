"""Work spread over processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
_CHUNK = 16


def all_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Results of ``work`` in the order of ``tasks``; with one worker, or few tasks, in this process."""
    if workers == 1 or len(tasks) <= _CHUNK:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=live_with_parent) as pool:
        yield from pool.map(work, tasks, chunksize=_CHUNK)


def live_with_parent() -> None:
    """Ctrl-C is for the process that the user started: it ends its workers, however it ends itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
