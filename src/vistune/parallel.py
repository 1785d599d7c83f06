"""Many tasks that wait, a few at a time."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")


async def in_parallel(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], at_once: int) -> None:
    """Do ``work`` on all items, ``at_once`` at a time, begun in their order.

    The first error stops what has not begun; what has begun is finished, and then the error is raised.
    """
    queue = iter(items)
    errors: list[Exception] = []

    async def worker() -> None:
        for item in queue:
            if errors:
                return
            try:
                await work(item)
            except Exception as error:
                errors.append(error)
            await asyncio.sleep(0)  # lets an interruption through where the work itself never waits

    await asyncio.gather(*(worker() for _ in range(at_once)))
    if errors:
        raise errors[0]


def run_interruptibly(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` in an event loop; Ctrl-C, or a polite kill, cancels it, and then does what it always does.

    A handler that raises would raise in the midst of the loop, which swallows that or leaves things open.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {number: handler for number, handler in handlers.items() if callable(handler)}
    caught: list[tuple[int, FrameType | None]] = []

    async def main() -> None:
        task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()

        def cancel(number: int, frame: FrameType | None) -> None:
            caught.append((number, frame))
            loop.call_soon_threadsafe(task.cancel)

        for number in previous:
            signal.signal(number, cancel)
        try:
            await task
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():  # signals are for the main one
        asyncio.run(work)
        return
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        if not caught:
            raise
    if caught:
        number, frame = caught[0]
        previous[signal.Signals(number)](number, frame)
