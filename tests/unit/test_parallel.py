"""Many tasks that wait, a few at a time; and Ctrl-C in their midst."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from vistune.parallel import in_parallel, run_interruptibly


class Interruption(BaseException):
    pass


def interrupt(*_: object) -> None:
    raise Interruption


def test_items_are_begun_in_order_and_never_more_at_a_time_than_allowed():
    begun: list[int] = []
    now = most = 0

    async def work(item: int) -> None:
        nonlocal now, most
        begun.append(item)
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001 * (item % 3))
        now -= 1

    asyncio.run(in_parallel(range(20), work, 4))
    assert begun == list(range(20)) and most == 4


def test_first_error_stops_what_has_not_begun_and_what_has_is_finished():
    finished: list[int] = []

    async def work(item: int) -> None:
        if item == 2:
            raise ValueError(f"bad {item}")
        await asyncio.sleep(0.01)
        finished.append(item)
        if item == 1:
            raise ValueError("a later one")

    with pytest.raises(ValueError, match="bad 2"):
        asyncio.run(in_parallel(range(100), work, 3))
    assert sorted(finished) == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("waits", [True, False])
def test_signal_cancels_the_work_tidies_up_and_then_does_what_it_always_does(number: int, waits: bool):
    done: list[int] = []
    tidied = False

    async def work(item: int) -> None:
        if item == 5:
            os.kill(os.getpid(), number)
        if waits:
            await asyncio.sleep(0.001)
        done.append(item)

    async def run() -> None:
        nonlocal tidied
        try:
            await in_parallel(range(10_000), work, 2)
        finally:
            await asyncio.sleep(0)
            tidied = True

    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(Interruption):
            run_interruptibly(run())
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert tidied and len(done) < 20


def test_without_ctrl_c_work_is_done_and_its_error_is_raised():
    async def fail() -> None:
        raise ValueError("bad")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="bad"):
        run_interruptibly(fail())
    assert signal.getsignal(signal.SIGINT) is handler
