"""Requests that wait together are decoded together, and leave as they finish. No threads here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import Decoder, Prefixes, Row, Sampler, Stretch
from vistune.serve.engine.engine import Finish, Piece, Sampling, Usage
from vistune.serve.engine.prepare import Prepared
from vistune.serve.engine.writing import Writer

_READ_TOKENS = 4096  # read at a time, so that those who write already do not wait long


@dataclass(eq=False)
class Job:
    """One request on its way.

    Attributes:
        send: takes its pieces, or the error in the place of one.
        cancelled: set by anybody at any time; the next step drops it.
    """

    prepared: Prepared
    sampling: Sampling
    writer: Writer
    send: Callable[[Piece | Exception], None]
    cancelled: bool = False
    cached: int = 0


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
        self.prefixes = Prefixes(cache_bytes)
        self.counts = Counts()

    @torch.inference_mode()
    def step(self) -> None:
        """Drop who was cancelled, read who waits while there is room, and write one token of each."""
        self._drop_cancelled()
        joining = self._choose()
        if joining:
            self._join(joining)
        if self.running:
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
        """Read new pictures first and by themselves, so that others can go on from them."""
        joining = {self._row(job): job for job in jobs}
        self.running |= joining
        self._tell(self._decoder.join(list(joining)), list(joining))

    def _row(self, job: Job) -> Row:
        ids, marks = job.prepared.ids, job.prepared.marks
        begun = self._begun(marks)
        job.cached = begun.length if begun else 0
        self.counts.cached += job.cached
        self.counts.read += len(ids) - job.cached
        pictures = None
        seen = np.flatnonzero(marks < 0)
        if len(seen) and seen[-1] >= job.cached:
            pictures = self._features(job.prepared.pixels, int((seen < job.cached).sum()))
            end = int(seen[-1]) + 1
            if end < len(ids):  # a row must have something to read
                (begun,) = self._decoder.read([ids[job.cached : end]], pictures, [begun])
                self.prefixes.keep(marks[:end], begun)
                pictures = None
        rest = ids[begun.length if begun else 0 :]
        choose = _chooser(job.sampling)
        return Row(rest, job.prepared.most, begun, pictures, choose, keeps=True)

    def _begun(self, marks: np.ndarray) -> Stretch | None:
        """What was read already; of a prompt that ends with a picture, not a part of that picture."""
        begun = self.prefixes.find(marks)
        whole = len(marks) - self._model.vision.patches
        if begun and marks[-1] < 0 and begun.length > whole:
            return begun.first(whole) if whole else None
        return begun

    def _features(self, pixels: Tensor | None, read: int) -> Tensor:
        """Of the pictures that come after ``read`` places of pictures."""
        assert pixels is not None
        like = next(self._model.vision.parameters())
        new = pixels[read // self._model.vision.patches :]
        return self._model.features(new.to(like.device, like.dtype))

    def _tell(self, ended: list[Row], begun: list[Row] | None = None) -> None:
        """Send what is new of everybody's answer."""
        for row in begun or list(self.running):
            job = self.running.get(row)
            if job is None:
                continue
            self.counts.written += 1
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
