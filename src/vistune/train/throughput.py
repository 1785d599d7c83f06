"""How fast a run is, over its last steps: what the progress line says."""

from __future__ import annotations

import resource
import sys
from collections import deque
from dataclasses import dataclass

import torch

from vistune.train.metrics import StepRow

_WINDOW = 20  # steps that are averaged
_GIB = 2**30


@dataclass(frozen=True)
class Speed:
    """Over the last steps.

    Attributes:
        waiting: share of the time in which there was no data to compute on.
        mfu: share of the devices' peak that went into operations the model needs; None where the peak is
            not known.
    """

    samples_per_second: float
    tokens_per_second: float
    waiting: float
    mfu: float | None


class Throughput:
    """Rolling means over the last 20 steps; the first step is left out as soon as there is another.

    Args:
        peak: operations a second of all devices together (``flops.peak_flops``), or None.
    """

    def __init__(self, peak: float | None = None) -> None:
        self._peak = peak
        self._steps: deque[tuple[StepRow, float]] = deque(maxlen=_WINDOW)
        self._first = True

    def add(self, row: StepRow, flops: float = 0.0) -> None:
        """Count a step; ``flops`` as ``ModelFlops.of_step`` tells."""
        if self._first and self._steps:  # it allocated and compiled
            self._steps.clear()
            self._first = False
        self._steps.append((row, flops))

    def speed(self) -> Speed | None:
        """None before the first step."""
        seconds = sum(row.seconds for row, _ in self._steps)
        if seconds <= 0:
            return None
        flops = sum(flops for _, flops in self._steps)
        return Speed(
            sum(row.samples for row, _ in self._steps) / seconds,
            sum(row.tokens for row, _ in self._steps) / seconds,
            sum(row.waited for row, _ in self._steps) / seconds,
            flops / seconds / self._peak if self._peak and flops else None,
        )

    def note(self, device: torch.device) -> str:
        """Loss, learning rates, speed and memory of the last steps, in one line."""
        speed = self.speed()
        if speed is None:
            return ""
        row = self._steps[-1][0]
        parts = [
            f"loss {row.loss:.3f}",
            f"lr {_rates(row)}",
            f"{speed.samples_per_second:,.1f} samples/s",
            f"{speed.tokens_per_second:,.0f} tokens/s",
            f"waiting {speed.waiting:.0%}",
            f"peak {peak_memory(device) / _GIB:.1f} GiB",
        ]
        return ", ".join(parts + ([f"MFU {speed.mfu:.0%}"] if speed.mfu is not None else []))


def peak_memory(device: torch.device) -> int:
    """Bytes at most so far: allocated on a GPU, of the process elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def _rates(row: StepRow) -> str:
    """One figure where all parts have the same."""
    rates = {f"{rate:.2g}" for rate in row.learning_rate.values()}
    if len(rates) == 1:
        return rates.pop()
    return "/".join(f"{rate:.2g}" for rate in row.learning_rate.values())
