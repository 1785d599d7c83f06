"""The page about a comparison: one HTML file that needs nothing else; all text is escaped."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vistune.data.images import UnusableImageError
from vistune.data.pictures import Pictures
from vistune.evaluate.compare.differing import BOTH_RIGHT, NEITHER, NOT_SCORED, ONLY_A, ONLY_B, SAME, Pair
from vistune.evaluate.compare.paired import Difference
from vistune.evaluate.compare.table import PROMPTS_DIFFER, coverage, probability, reading, signed, silence
from vistune.evaluate.compare.words import Span, compare_words
from vistune.page.render import data_uri, load_template

if TYPE_CHECKING:
    from vistune.evaluate.compare.run import Compared

_LONGEST = 3000  # characters of a text
_MOST_KINDS = 24
_WHO = (BOTH_RIGHT, ONLY_A, SAME, ONLY_B, NEITHER, NOT_SCORED)  # in the order of the bar
_NAMED_MISSING = 12
_STEPS = (1, 2, 3, 4, 5, 6, 8, 10)  # of an axis, in powers of ten


@dataclass(frozen=True)
class Plotted:
    """A measure in the plot; places in percent of its width. B's gain goes right, whatever the measure."""

    measure: Difference
    left: float
    width: float
    dot: float
    low: float
    high: float


@dataclass(frozen=True)
class KindRow:
    """One kind of question; shares of the longest bar."""

    kind: str
    count: int
    only_a: int
    only_b: int
    share_a: float
    share_b: float


@dataclass(frozen=True)
class Card:
    """One question. ``note``: why its picture is not shown."""

    pair: Pair
    question: str
    to_b: str  # the question as B was asked, where that differs
    references: list[str]
    picture: str
    note: str
    answers: tuple[list[Span], list[Span]]


def write_page(path: Path, compared: Compared, shown: Sequence[Pair], pictures: Pictures | None) -> Path:
    """Write the page.

    Args:
        shown: the questions whose answers it shows.
        pictures: None shows none.
    """
    script = resources.files(__package__).joinpath("compare.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    album = _Album(pictures)
    cards = [_card(pair, album) for pair in shown]
    counts = Counter(pair.who for pair in compared.pairs)
    extent = plot_extent(compared.measures)
    page = load_template(__package__, "compare.html.j2").render(
        compared=compared,
        leading=compared.leading,
        coverage=coverage(compared),
        reading=reading(compared),
        prompts_differ=PROMPTS_DIFFER if compared.prompts_differ else "",
        extent=extent,
        plotted=[plot(measure, extent) for measure in compared.measures],
        graded=any(pair.graded for pair in compared.pairs),
        counts=[(who, counts[who]) for who in _WHO if counts[who]],
        differing=counts[ONLY_A] + counts[ONLY_B],
        kinds=kind_rows(compared.pairs),
        all_kinds=len({pair.kind for pair in compared.pairs}),
        cards=cards,
        shown_kinds=sorted({card.pair.kind for card in cards if card.pair.kind}),
        missing=album.missing,
        named_missing=list(album.missing)[:_NAMED_MISSING],
        with_pictures=pictures is not None,
        probability=probability,
        signed=signed,
        silence=silence(compared.silent),
        script=script,
        digest=digest,
    )
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


class _Album:
    """Pictures as ``src`` values, each opened once; remembers which could not be shown."""

    def __init__(self, pictures: Pictures | None) -> None:
        self._pictures, self._seen = pictures, dict[str, str]()
        self.missing: dict[str, str] = {}  # name -> why

    def source(self, name: str | None) -> tuple[str, str]:
        """The picture, and why there is none; both empty where none is wanted."""
        if self._pictures is None or name is None:
            return "", ""
        if name not in self._seen and name not in self.missing:
            try:
                self._seen[name] = data_uri(self._pictures.open(name))
            except UnusableImageError as error:
                self.missing[name] = error.flaw.reason
        return self._seen.get(name, ""), self.missing.get(name, "")


def plot_extent(measures: Sequence[Difference]) -> float:
    """A round number of points, 1 or more, that no interval reaches beyond."""
    most = max([1.0, *(abs(x) for m in measures for x in (m.low, m.high, m.difference))])
    unit = 10 ** math.floor(math.log10(most))
    return next(float(step * unit) for step in _STEPS if step * unit >= most)


def plot(measure: Difference, extent: float) -> Plotted:
    """Where a measure's dot and interval lie on an axis from ``-extent`` to ``extent``."""
    side = measure.better or 1
    low, high = sorted((side * measure.low, side * measure.high))

    def place(points: float) -> float:
        return 50 + 50 * points / extent

    dot = place(side * measure.difference)
    return Plotted(measure, place(low), place(high) - place(low), dot, measure.low, measure.high)


def kind_rows(pairs: Sequence[Pair]) -> list[KindRow]:
    """Kinds by how often the runs differ on them; none where there is only one kind."""
    counts = Counter(pair.kind for pair in pairs)
    sides = Counter((pair.kind, pair.who) for pair in pairs)
    if len(counts) < 2:
        return []
    ordered = sorted(counts, key=lambda kind: -(sides[kind, ONLY_A] + sides[kind, ONLY_B]))[:_MOST_KINDS]
    most = max(1, *(sides[kind, who] for kind in ordered for who in (ONLY_A, ONLY_B)))
    return [
        KindRow(
            kind or "(no kind)",
            counts[kind],
            a := sides[kind, ONLY_A],
            b := sides[kind, ONLY_B],
            a / most,
            b / most,
        )
        for kind in ordered
    ]


def _card(pair: Pair, album: _Album) -> Card:
    picture, why = album.source(pair.a.image or pair.b.image)
    note = f"{pair.a.image or pair.b.image}: {why}" if why else ""
    answers = compare_words(_cut(pair.a.answer), _cut(pair.b.answer))
    references = [_cut(reference) for reference in dict.fromkeys(pair.a.references)]
    to_b = _cut(pair.b.question) if pair.b.question != pair.a.question else ""
    return Card(pair, _cut(pair.a.question), to_b, references, picture, note, answers)


def _cut(text: str) -> str:
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]} … ({more:,} more characters)"
