"""The batches of each optimizer step, prepared one step ahead by a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch

from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import Batch, picture_order, to_batch, to_padded_batch
from vistune.data.corpus import Corpus
from vistune.data.pack import Row, Rows, Tree, flatten, make_rows, plant
from vistune.errors import Problem
from vistune.template import Encoded
from vistune.train.feed import Pictures
from vistune.train.order import InTurn, Order
from vistune.train.parallel import Team

_AHEAD = 2  # steps that wait


@dataclass(frozen=True)
class Prepared:
    """One step on this process.

    Attributes:
        waited: seconds.
        broken: pictures that were found unreadable while the step was prepared.
    """

    batches: list[Batch]
    waited: float
    broken: dict[str, Problem]


_Found: TypeAlias = tuple[list[Batch], dict[str, Problem]]


class Loader:
    """Makes this process's share of each step.

    Args:
        row_tokens: room of one micro-batch.
        rows: how the LLM can be computed (:class:`vistune.model.computing.Computing`); nothing is shared
            unless it is ``packed``.
    """

    def __init__(
        self,
        corpus: Corpus,
        order: Order | InTurn,
        pictures: Pictures,
        team: Team,
        image_token: int,
        row_tokens: int,
        share: bool,
        rows: Rows = "packed",
    ) -> None:
        self._corpus, self._order, self._pictures, self._team = corpus, order, pictures, team
        self._image_token, self._row_tokens = image_token, row_tokens
        self._rows: Rows = rows
        self._groups = corpus.groups if share and rows == "packed" else np.arange(len(corpus))

    def steps(self, first: int, end: int) -> Generator[Prepared, None, None]:
        """Steps ``first`` to ``end - 1``."""
        waiting: queue.Queue[_Found | BaseException] = queue.Queue(_AHEAD)
        stopped = threading.Event()
        told = set(self._pictures.broken)

        def work() -> None:
            try:
                for step in range(first, end):
                    batches = self.prepare(step)
                    if self._team.device.type == "cuda":  # copied while the device computes
                        batches = [batch.pin_memory() for batch in batches]
                    broken = {n: p for n, p in self._pictures.broken.items() if n not in told}
                    told.update(broken)
                    _put(waiting, (batches, broken), stopped)
                    if stopped.is_set():
                        return
            except BaseException as error:  # raised where the step is waited for
                _put(waiting, error, stopped)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            for _ in range(first, end):
                start = time.perf_counter()
                found = waiting.get()
                if isinstance(found, BaseException):
                    raise found
                batches, broken = found
                yield Prepared(batches, time.perf_counter() - start, broken)
        finally:
            stopped.set()
            thread.join()

    def prepare(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        corpus = self._corpus
        trees = plant(self._order.records(step), corpus.lengths, corpus.prefixes, self._groups)
        rows = make_rows(self._rows, trees, self._row_tokens, self._team.size)
        return [self._batch(row, trees) for row in rows[self._team.rank :: self._team.size]]

    def _batch(self, trees: Sequence[Tree], all_trees: Sequence[Tree]) -> Batch:
        if not trees:  # more processes than trees: compute something, learn nothing
            return replace(self._blind(all_trees[:1]), samples=0)
        samples = [[self._corpus[sample] for sample in tree.samples] for tree in trees]
        row = flatten(trees, samples, self._image_token)
        if not row.pictures:
            return self._tensors(row)
        names, order = picture_order(row.pictures)
        pictures = self._pictures.load(names)
        if not self._pictures.broken.keys().isdisjoint(names):
            samples = [[self._unless_broken(sample) for sample in members] for members in samples]
            row = flatten(trees, samples, self._image_token)
        return _with_pictures(self._tensors(row), pictures, order)

    def _blind(self, trees: Sequence[Tree]) -> Batch:
        """``trees`` with pictures, and nothing to learn."""
        samples = [[_masked(self._corpus[sample]) for sample in tree.samples] for tree in trees]
        row = flatten(trees, samples, self._image_token)
        names, order = picture_order(row.pictures)
        return _with_pictures(self._tensors(row), self._pictures.load(names) if names else None, order)

    def _tensors(self, row: Row) -> Batch:
        return to_batch(row) if self._rows == "packed" else to_padded_batch(row, self._image_token)

    def _unless_broken(self, sample: Encoded) -> Encoded:
        """The sample, from which nothing is learned where a picture of it is broken."""
        return sample if self._pictures.broken.keys().isdisjoint(sample.pictures) else _masked(sample)


def _masked(sample: Encoded) -> Encoded:
    return Encoded(sample.ids, [IGNORE_INDEX] * len(sample.ids), sample.pictures)


def _with_pictures(batch: Batch, pictures: torch.Tensor | None, order: torch.Tensor | None) -> Batch:
    if pictures is None:
        return batch
    if pictures.ndim == 4:
        return replace(batch, pixels=pictures, picture_order=order)
    return replace(batch, features=pictures, picture_order=order)


def _put(
    waiting: queue.Queue[_Found | BaseException],
    item: _Found | BaseException,
    stopped: threading.Event,
) -> None:
    while not stopped.is_set():
        try:
            return waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
