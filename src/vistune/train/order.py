"""Which samples an optimizer step learns from: a pure function of the seed and the step's number."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np

from vistune.data.corpus import Corpus
from vistune.data.mix import Mix
from vistune.recipe import StageRecipe


def count_steps(stage: StageRecipe, samples: int) -> int:
    """Optimizer steps of a stage; a last batch of an epoch that is not full counts."""
    steps = math.ceil(math.ceil(samples / stage.batch_size) * stage.epochs)
    return min(steps, stage.max_steps) if stage.max_steps else steps


class Order:
    """An epoch holds every sample once, in an order of its own; as any step can be asked for, a resumed run
    needs no state.

    Args:
        selection: which records each epoch shows; an epoch may show one more than once.
        groups: for each record, which others it can share its beginning with.
        share: keep the samples of a group together. They stay in one step but where a batch ends in their
            midst, so that every step has ``batch_size`` samples.
    """

    def __init__(self, selection: Mix, groups: np.ndarray, batch_size: int, seed: int, share: bool) -> None:
        self._selection, self._groups = selection, groups
        self._batch_size, self._seed, self._share = batch_size, seed, share
        self.steps_per_epoch = math.ceil(len(selection) / batch_size)
        self._epoch = lru_cache(maxsize=1)(self._shuffled)

    def records(self, step: int) -> np.ndarray:
        """Records of a step, those of a group side by side."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[batch * self._batch_size : (batch + 1) * self._batch_size]

    def times_shown(self, steps: int) -> np.ndarray:
        """How often each record is seen in the first ``steps``, int64 [R]."""
        shown = np.zeros(len(self._groups), np.int64)
        epochs, rest = divmod(steps, self.steps_per_epoch)
        for epoch in range(epochs):
            shown += np.bincount(self._selection.epoch(epoch), minlength=len(shown))
        if rest:
            last = self._epoch(epochs)[: rest * self._batch_size]
            shown += np.bincount(last, minlength=len(shown))
        return shown

    def _shuffled(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, epoch])
        mixed = rng.permutation(self._selection.epoch(epoch))
        if not self._share:
            return mixed
        # One permutation of the groups: placed by its first sample, a large group would come early, and an
        # epoch's tenths would differ. A stable sort keeps the shuffle within a group. Where a record is seen
        # several times in an epoch, each time is a group of its own.
        groups = self._groups[mixed] * (len(mixed) + 1) + _occurrences(mixed)
        found, group = np.unique(groups, return_inverse=True)
        return mixed[np.argsort(rng.permutation(len(found))[group], kind="stable")]


class InTurn:
    """All records once, those of a group side by side, some hundreds at a time; nothing is random."""

    def __init__(self, groups: np.ndarray, at_once: int = 512) -> None:
        self._records, self._at_once = np.argsort(groups, kind="stable"), at_once

    def __len__(self) -> int:
        """How many times some can be asked for."""
        return math.ceil(len(self._records) / self._at_once)

    def records(self, step: int) -> np.ndarray:
        return self._records[step * self._at_once : (step + 1) * self._at_once]


def _occurrences(records: np.ndarray) -> np.ndarray:
    """For each place, how often its record stands before it."""
    by_record = np.argsort(records, kind="stable")
    ordered = records[by_record]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[begins, len(ordered)])
    occurrences = np.empty(len(records), dtype=np.int64)
    occurrences[by_record] = np.arange(len(ordered)) - np.repeat(begins, counts)
    return occurrences


def digest(corpus: Corpus, order: Order) -> str:
    """Return what differs if two processes would not share out the same steps."""
    found = hashlib.sha256()
    for array in (corpus.lengths, corpus.supervised, corpus.prefixes, corpus.groups, order.records(0)):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def mixed_seed(*numbers: int) -> int:
    """Return a seed of 63 bits; it has nothing in common with that of other numbers."""
    found = hashlib.blake2b(repr(numbers).encode(), digest_size=8)
    return int.from_bytes(found.digest(), "big") >> 1
