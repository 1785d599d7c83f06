"""Requests that wait together are decoded together, and leave as they finish. No threads here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import Decoder, Prefixes, Row, Sampler, Stretch
from vistune.model.threads import one_thread
from vistune.serve.engine.engine import Finish, Piece, Sampling, Usage
from vistune.serve.engine.prepare import Prepared
from vistune.serve.engine.writing import Writer

_SMALL = 20_000_000  # parameters; a smaller model has written a token before a second core has begun
_READ_TOKENS = 2048  # read at a time, so that those who write already do not wait long


@dataclass(eq=False)
class Job:
    """One request on its way.

    Attributes:
        send: takes its pieces, or the error in the place of one.
        streamed: wants its words as they come.
        cancelled: set by anybody at any time; the next step drops it.
    """

    prepared: Prepared
    sampling: Sampling
    writer: Writer
    send: Callable[[Piece | Exception], None]
    streamed: bool = True
    cancelled: bool = False
    cached: int = 0

    @property
    def waits_for_all(self) -> bool:
        """Nobody needs its words before the last."""
        return not self.streamed and not self.sampling.stop


@dataclass(eq=False)
class _Plan:
    """How a job begins.

    Attributes:
        begun: what was read already.
        pixels: of the pictures that were not, [I, 3, H, W].
        end: where the last picture ends.
        features: [I, P, D] of ``pixels``, where the job's own row is to read them.
    """

    job: Job
    begun: Stretch | None
    pixels: Tensor | None
    end: int
    features: Tensor | None = None

    @property
    def beginning(self) -> bytes:
        """The same for jobs that have all up to their last picture in common."""
        return self.job.prepared.marks[: self.end].tobytes()


@dataclass
class Counts:
    """Tokens, since the start."""

    read: int = 0
    cached: int = 0
    written: int = 0
    cancelled: int = 0


class Batcher:
    """Decodes jobs of one checkpoint together.

    Args:
        rows: jobs that are decoded together at most.
        cache_bytes: of keys and values that are kept for those who begin alike; 0 keeps nothing.
    """

    def __init__(self, checkpoint: Checkpoint, rows: int, cache_bytes: int) -> None:
        self._checkpoint, self._model, self._rows = checkpoint, checkpoint.model, rows
        self._decoder = Decoder(self._model, checkpoint.stop)
        self.waiting: deque[Job] = deque()
        self.running: dict[Row, Job] = {}
        self.prefixes = Prefixes(cache_bytes if self._decoder.shares else 0)
        self.counts = Counts()
        self._joined = False  # somebody, in the last step
        self._small = sum(p.numel() for p in self._model.parameters()) < _SMALL

    @torch.inference_mode()
    def step(self) -> None:
        """Drop who was cancelled; then read who waits, where there is room, or else write one token of each.

        Those who write do not wait for more than one reading.
        """
        self._drop_cancelled()
        joining = [] if self._joined and self.running else self._choose()
        self._joined = bool(joining)
        # The server's other threads want a core, too.
        with one_thread() if self._small else nullcontext():
            if joining:
                self._join(joining)
            elif self.running:
                self._tell(self._decoder.step())

    def fail(self, error: Exception) -> None:
        """Tell everybody, and begin anew."""
        for job in (*self.waiting, *self.running.values()):
            job.send(error)
        self.waiting.clear()
        self.running.clear()
        self._decoder = Decoder(self._model, self._checkpoint.stop)

    def _drop_cancelled(self) -> None:
        for row in [row for row, job in self.running.items() if job.cancelled]:
            self._leave(row)
        for job in [job for job in self.waiting if job.cancelled]:
            self.waiting.remove(job)
            self.counts.cancelled += 1

    def _leave(self, row: Row) -> None:
        del self.running[row]
        self._decoder.leave(row)
        self.counts.cancelled += 1

    def _choose(self) -> list[Job]:
        chosen: list[Job] = []
        tokens = 0
        while self.waiting and len(self.running) + len(chosen) < self._rows and tokens < _READ_TOKENS:
            job = self.waiting.popleft()
            chosen.append(job)
            tokens += len(job.prepared.ids)
        return chosen

    def _join(self, jobs: list[Job]) -> None:
        """Read new pictures first, all at once and by themselves, so that others can go on from them."""
        plans = [self._plan(job) for job in jobs]
        self._read_pictures(plans)
        joining = {self._row(plan): plan.job for plan in plans}
        self.running |= joining
        self._tell(self._decoder.join(list(joining)), list(joining))

    def _plan(self, job: Job) -> _Plan:
        marks = job.prepared.marks
        begun = self._begun(marks)
        job.cached = begun.length if begun else 0
        self.counts.cached += job.cached
        self.counts.read += len(marks) - job.cached
        seen = np.flatnonzero(marks < 0)
        pixels = None
        if len(seen) and seen[-1] >= job.cached:
            assert job.prepared.pixels is not None
            read = int((seen < job.cached).sum()) // self._model.vision.patches
            pixels = job.prepared.pixels[read:]
        return _Plan(job, begun, pixels, int(seen[-1]) + 1 if len(seen) else 0)

    def _begun(self, marks: np.ndarray) -> Stretch | None:
        """What was read already; of a prompt that ends with a picture, not a part of that picture."""
        begun = self.prefixes.find(marks)
        whole = len(marks) - self._model.vision.patches
        if begun and marks[-1] < 0 and begun.length > whole:
            return begun.first(whole) if whole else None
        return begun

    def _read_pictures(self, plans: list[_Plan]) -> None:
        """Encode new pictures, and read what leads up to them; plans that begin alike share it."""
        new = {plan.beginning: plan for plan in plans if plan.pixels is not None}
        if not new:
            return
        features = self._features(
            torch.cat([plan.pixels for plan in new.values() if plan.pixels is not None])
        )
        parts = features.split([len(plan.pixels) for plan in new.values() if plan.pixels is not None])
        for plan, part in zip(new.values(), parts, strict=True):
            plan.features = part
        apart = [plan for plan in new.values() if plan.end < len(plan.job.prepared.ids)]
        if apart:  # others end with their picture: a row must have something to read
            beginnings = [plan.job.prepared.ids[plan.job.cached : plan.end] for plan in apart]
            pictures = torch.cat([plan.features for plan in apart if plan.features is not None])
            stretches = self._decoder.read(beginnings, pictures, [plan.begun for plan in apart])
            for plan, stretch in zip(apart, stretches, strict=True):
                plan.begun, plan.features = stretch, None
                self.prefixes.keep(plan.job.prepared.marks[: plan.end], stretch)
        for plan in plans:
            if plan.pixels is not None:
                plan.begun, plan.features = new[plan.beginning].begun, new[plan.beginning].features

    def _row(self, plan: _Plan) -> Row:
        prepared = plan.job.prepared
        rest = prepared.ids[plan.begun.length if plan.begun else 0 :]
        choose = _chooser(plan.job.sampling)
        return Row(rest, prepared.most, plan.begun, plan.features, choose, keeps=True)

    def _features(self, pixels: Tensor) -> Tensor:
        like = next(self._model.vision.parameters())
        return self._model.features(pixels.to(like.device, like.dtype))

    def _tell(self, ended: list[Row], begun: list[Row] | None = None) -> None:
        """Send what is new of everybody's answer."""
        for row in begun or list(self.running):
            job = self.running.get(row)
            if job is None:
                continue
            self.counts.written += 1
            if job.waits_for_all and row not in ended:
                continue
            text = job.writer.write(self._decoder.answer(row), last=row in ended)
            if row in ended:
                self._finish(row, job, text, "stop" if self._stopped(row, job) else "length")
            elif job.writer.stopped:
                self._finish(row, job, text, "stop")
                self._decoder.leave(row)
            elif text:
                job.send(Piece(text))

    def _stopped(self, row: Row, job: Job) -> bool:
        return self._decoder.stopped(row) or job.writer.stopped

    def _finish(self, row: Row, job: Job, text: str, finish: Finish) -> None:
        del self.running[row]
        if row.kept:
            written = np.array(row.written[:-1], dtype=np.int64)
            self.prefixes.keep(np.concatenate([job.prepared.marks, written]), row.kept)
        job.send(Piece(text, finish, Usage(len(job.prepared.ids), len(row.written), job.cached)))


def _chooser(sampling: Sampling) -> Sampler | None:
    if sampling.temperature == 0:
        return None
    return Sampler(sampling.temperature, sampling.top_p, sampling.seed)
