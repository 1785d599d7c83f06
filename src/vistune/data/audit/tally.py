"""Figures over all records: CHAIR, leaks, question kinds, lengths."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vistune.data.audit.examine import Examined
from vistune.data.audit.questions import KINDS, first_words, kind_of

ALL = "all"
_PERCENTILES = (5, 50, 95)
_BINS = 24
_COMMON_FIRST_WORDS = 15


@dataclass
class Chair:
    """Invented objects (Rohrbach et al. 2018). An object counts once in an answer, however often it is named.

    Attributes:
        answers: about annotated pictures.
        naming: of these, those that assert at least one object.
        inventing: of these, those that assert at least one object that is not there.
        objects, invented: asserted objects, and those of them that are not there.
    """

    answers: int = 0
    naming: int = 0
    inventing: int = 0
    objects: int = 0
    invented: int = 0

    @property
    def i(self) -> float:
        """CHAIR-i: the share of asserted objects that are not there."""
        return self.invented / self.objects if self.objects else 0.0

    @property
    def s(self) -> float:
        """CHAIR-s: the share of answers that assert an object that is not there."""
        return self.inventing / self.answers if self.answers else 0.0

    def figures(self) -> dict[str, Any]:
        return {"chair_i": self.i, "chair_s": self.s, **vars(self)}


@dataclass
class Lengths:
    """How often each length occurs."""

    counts: Counter[int] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Count, mean, percentiles, largest; and a histogram of [from, to, count], both ends included."""
        total = sum(self.counts.values())
        if not total:
            return {"count": 0}
        return {
            "count": total,
            "mean": sum(length * n for length, n in self.counts.items()) / total,
            **{f"p{percent}": self._percentile(percent, total) for percent in _PERCENTILES},
            "largest": max(self.counts),
            "histogram": self._histogram(total),
        }

    def _percentile(self, percent: int, total: int) -> int:
        """The least length that so many percent of all do not exceed."""
        left = math.ceil(total * percent / 100)
        for length in sorted(self.counts):
            left -= self.counts[length]
            if left <= 0:
                break
        return length

    def _histogram(self, total: int) -> list[list[int]]:
        """Bins of one width up to the 99th percentile; the last one holds the rest."""
        low, high = min(self.counts), self._percentile(99, total)
        width = max(1, math.ceil((high - low + 1) / _BINS))
        bins = [[start, start + width - 1, 0] for start in range(low, high + 1, width)]
        for length, count in self.counts.items():
            bins[min((length - low) // width, len(bins) - 1)][2] += count
        bins[-1][1] = max(bins[-1][1], max(self.counts))
        return bins


@dataclass
class Tally:
    """Counts that grow record by record."""

    records: Counter[str] = field(default_factory=Counter)  # by sample type
    answers: int = 0
    no_picture: int = 0
    not_joined: int = 0
    chair: dict[str, Chair] = field(default_factory=lambda: defaultdict(Chair))  # by sample type, and for all
    stances: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)  # asserted, by category
    invented: Counter[str] = field(default_factory=Counter)
    leaks: dict[str, Counter[str]] = field(
        default_factory=lambda: {"answers": Counter(), "questions": Counter()}
    )
    leaking_records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first_words: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Lengths] = field(
        default_factory=lambda: {
            "words of a question": Lengths(),
            "words of an answer": Lengths(),
            "turns of a record": Lengths(),
        }
    )

    def add(self, record: Examined) -> None:
        self.records[record.type] += 1
        self.answers += len(record.exchanges)
        self.no_picture += not record.files
        self.not_joined += bool(record.files) and not record.joined
        self.lengths["turns of a record"].counts[len(record.exchanges)] += 1
        leaking = False
        for exchange in record.exchanges:
            self.kinds[kind_of(exchange.question)] += 1
            self.first_words[first_words(exchange.question)] += 1
            self.lengths["words of a question"].counts[len(exchange.question.split())] += 1
            self.lengths["words of an answer"].counts[len(exchange.answer.split())] += 1
            for side, leak in (("answers", exchange.answer_leak), ("questions", exchange.question_leak)):
                if leak:
                    leaking = True
                    self.leaks[side][" ".join(leak.lower().split())] += 1
        self.leaking_records += leaking
        if record.joined:
            self._count_objects(record)

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "records": {ALL: self.records.total(), **dict(sorted(self.records.items()))},
            "answers": self.answers,
            "records_without_picture": self.no_picture,
            "records_not_joined": self.not_joined,
            "invented_objects": {
                "by_type": {name: self.chair[name].figures() for name in self._types()},
                "by_category": _shares(self.invented, self.objects),
                "mentions": dict(self.stances.most_common()),
            },
            "leaks": {
                "records": self.leaking_records,
                **{side: counts.total() for side, counts in self.leaks.items()},
                "most_common": {side: dict(c.most_common(20)) for side, c in self.leaks.items()},
            },
            "question_kinds": {kind: self.kinds[kind] for kind in KINDS if self.kinds[kind]},
            "first_words": dict(self.first_words.most_common(_COMMON_FIRST_WORDS)),
            "lengths": {name: lengths.figures() for name, lengths in self.lengths.items()},
        }

    def _types(self) -> list[str]:
        return [ALL, *sorted(name for name in self.chair if name != ALL)]

    def _count_objects(self, record: Examined) -> None:
        for exchange in record.exchanges:
            self.stances.update(mention.stance for mention in exchange.mentions)
            asserted = {mention.categories for mention in exchange.asserted}
            invented = {mention.categories for mention in exchange.invented}
            self.objects.update(" or ".join(meant) for meant in asserted)
            self.invented.update(" or ".join(meant) for meant in invented)
            for name in (ALL, record.type):
                chair = self.chair[name]
                chair.answers += 1
                chair.naming += bool(asserted)
                chair.inventing += bool(invented)
                chair.objects += len(asserted)
                chair.invented += len(invented)


def _shares(part: Mapping[str, int], whole: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Every object that is ever invented, most often first."""
    ordered = sorted((name for name in part), key=lambda name: (-part[name], name))
    return {name: {"invented": part[name], "named": whole[name]} for name in ordered}
