"""Which records the page shows: flagged ones first, of every flag; then a fair sample of all."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from vistune.data.audit.examine import FLAGS, Examined


@dataclass
class _Reservoir:
    """A fair sample of all that was offered, whatever their number (Vitter 1985, algorithm R)."""

    size: int
    rng: random.Random
    kept: list[tuple[int, Examined]] = field(default_factory=list)
    offered: int = 0

    def offer(self, number: int, record: Examined) -> None:
        self.offered += 1
        if len(self.kept) < self.size:
            self.kept.append((number, record))
        elif (place := self.rng.randrange(self.offered)) < self.size:
            self.kept[place] = (number, record)


class Choice:
    """Chooses while records go by.

    Args:
        flagged: records to keep of each flag.
        sampled: records to keep of all, flagged or not.
    """

    def __init__(self, flagged: int, sampled: int, seed: int) -> None:
        def reservoir(name: str, size: int) -> _Reservoir:
            return _Reservoir(size, random.Random(f"audit/{seed}/{name}"))

        self._flagged = {flag: reservoir(flag, flagged) for flag in FLAGS}
        self._sampled = reservoir("sample", sampled)
        self._flags: dict[int, dict[str, list[str]]] = {}

    def offer(self, number: int, record: Examined, flags: list[tuple[str, str]]) -> None:
        """``number`` tells records apart; ``flags``: with their evidence."""
        for flag in {flag for flag, _ in flags}:
            self._flagged[flag].offer(number, record)
        self._sampled.offer(number, record)
        kept = (place for r in (*self._flagged.values(), self._sampled) for place, _ in r.kept)
        if number in kept:
            evidence = self._flags.setdefault(number, {})
            for flag, words in flags:
                evidence.setdefault(flag, []).append(words)

    def chosen(self) -> list[tuple[Examined, dict[str, list[str]]]]:
        """Records with their flags and evidence: most flags first, then in the data's order."""
        records = {
            number: record for r in (*self._flagged.values(), self._sampled) for number, record in r.kept
        }
        ordered = sorted(records, key=lambda number: (-len(self._flags[number]), number))
        return [(records[number], self._flags[number]) for number in ordered]
