"""Who is being answered, by which model, and whether more may come."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.types import Receive

from vistune.serve.api.errors import ClientGoneError, ClosedError, UnknownModelError
from vistune.serve.engine.engine import BusyError, Engine

_T = TypeVar("_T")
_LOOK = 0.05  # seconds


class Desk:
    """Gives requests their places.

    Args:
        engines: by name.
        places: requests of one model at a time, those that wait included, before they are told to come again.
    """

    def __init__(self, engines: Mapping[str, Engine], places: int) -> None:
        self._engines, self._places = engines, places
        self._taken: Counter[str] = Counter()
        self._running: set[asyncio.Future[Any]] = set()
        self.closed = self._ended = False

    @property
    def models(self) -> list[Engine]:
        return list(self._engines.values())

    def engine(self, name: str) -> Engine:
        """Raises:
        UnknownModelError: there is none of that name.
        """
        if name in self._engines:
            return self._engines[name]
        known = ", ".join(f"`{known}`" for known in self._engines)
        raise UnknownModelError(f"There is no model `{name[:200]}` here; there is {known}.", "model")

    @contextmanager
    def place(self, name: str) -> Iterator[None]:
        """Held while a request waits and is answered.

        Raises:
            BusyError: all are taken.
            ClosedError: no more are given.
        """
        if self.closed:
            raise _shutting_down()
        if self._taken[name] >= self._places:
            raise BusyError(1.0)
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1

    async def while_heard(self, receive: Receive, work: Awaitable[_T]) -> _T:
        """Do ``work`` as long as the client listens and the server goes on; else it is cancelled, and over
        when this returns. The request's body must have been read.

        Raises:
            ClientGoneError: the client hung up.
            ClosedError: the server shut down.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
        self._running.add(task)
        if self._ended:
            task.cancel()
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError
            if task.cancelled():
                raise _shutting_down()
            return task.result()
        finally:
            self._running.discard(task)
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    def close(self) -> None:
        """Take in nobody else."""
        self.closed = True

    async def idle(self, seconds: float) -> None:
        """Wait until nobody is being answered, so long at most."""
        end = time.monotonic() + seconds
        while any(self._taken.values()) and time.monotonic() < end:
            await asyncio.sleep(_LOOK)

    def end(self) -> None:
        """Cancel all that is being answered."""
        self.closed = self._ended = True
        for task in self._running:
            task.cancel()


def _shutting_down() -> ClosedError:
    return ClosedError("The server is shutting down.")


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
