"""Speed and memory of training steps, in the process that takes them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path


def timed(work: Callable[[], object], samples: int) -> dict[str, float]:
    """Run ``work``, which trains on ``samples``.

    Returns:
        ``samples_per_second``; ``memory_mib``: peak resident memory beyond what the process held before.
    """
    before = resident()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"samples_per_second": samples / seconds, "memory_mib": peak - before}


def resident() -> float:
    """Return the MiB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
