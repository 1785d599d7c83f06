"""Work spread over processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
_CHUNK = 16


def spread(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Results of ``work`` in the order of ``tasks``; with one worker, or few tasks, in this process."""
    if workers == 1 or len(tasks) <= _CHUNK:
        yield from map(work, tasks)
        return
    context = get_context("spawn")
    # Ctrl-C is for the process that the user started; it ends its workers.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=ignore) as pool:
        yield from pool.map(work, tasks, chunksize=_CHUNK)
