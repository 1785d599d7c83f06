"""Runs a command as long as its parent lives: ``python -m vistune.serve.engine.guardian GRACE COMMAND …``.

The parent holds the other end of standard input. However the parent ends, that closes; then the command
and all that it started get SIGTERM, and SIGKILL where they have not ended GRACE seconds later.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

GRACE = 10.0
_LOOK = 0.05


def guard(grace: float, command: Sequence[str]) -> int:
    """The command's exit status, once it and its process group are gone."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _end(child, grace))
    threading.Thread(target=_end_with_parent, args=[child, grace], daemon=True).start()
    status = child.wait()
    _signal(child, signal.SIGKILL)  # workers that a crashed server has left behind
    return status if status >= 0 else 128 - status


def _end_with_parent(child: subprocess.Popen[bytes], grace: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    _end(child, grace)


def _end(child: subprocess.Popen[bytes], grace: float) -> None:
    _signal(child, signal.SIGTERM)
    threading.Thread(target=_kill_later, args=[child, grace], daemon=True).start()


def _kill_later(child: subprocess.Popen[bytes], grace: float) -> None:
    end = time.monotonic() + grace
    while time.monotonic() < end and child.returncode is None:
        time.sleep(_LOOK)
    _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the whole group, whose number is its first process's."""
    with suppress(ProcessLookupError, PermissionError):  # all are gone
        os.killpg(child.pid, number)


if __name__ == "__main__":
    raise SystemExit(guard(float(sys.argv[1]), sys.argv[2:]))
