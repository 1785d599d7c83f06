"""The thread that computes."""

import threading

import pytest

from vistune.serve.engine.worker import Worker


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker._stop()
    assert not worker._thread.is_alive()


def test_results_and_errors_come_back(worker):
    assert worker.submit(divmod, 7, 2).result(10) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        worker.submit(divmod, 7, 0).result(10)
    assert worker.submit(str, 5).result(10) == "5"


def test_all_is_done_in_one_thread_and_in_order(worker):
    seen = []
    for number in range(20):
        worker.later(lambda number=number: seen.append((number, threading.get_ident())))
    here = worker.submit(threading.get_ident).result(10)
    assert seen == [(number, here) for number in range(20)] and here != threading.get_ident()


def test_what_is_cancelled_before_its_turn_is_not_done(worker):
    gate, seen = threading.Event(), []
    worker.later(lambda: gate.wait(10))
    waiting = worker.submit(seen.append, 1)
    assert waiting.cancel()
    gate.set()
    worker.submit(str).result(10)
    assert not seen
