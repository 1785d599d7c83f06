"""Work spread over processes: in order, and never outliving the process that asked for it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vistune.processes import spread

SCRIPT = """
import os, time
from vistune.processes import spread

def work(number):
    time.sleep(0.01)
    return os.getpid()

if __name__ == "__main__":
    for pid in spread(work, range(100_000), 2):
        print(pid, flush=True)
"""


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int):
    assert list(spread(square, range(50), workers)) == [number * number for number in range(50)]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = {int(parent.stdout.readline()) for _ in range(64)}
    assert workers and os.getpid() not in workers and all(map(alive, workers))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
