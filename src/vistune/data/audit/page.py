"""The page about an audit: one HTML file that needs nothing else; all text is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vistune.data.audit.annotations import Annotated
from vistune.data.audit.examine import FLAGS, Examined, Exchange
from vistune.data.images import UnusableImageError, open_image, outside
from vistune.page.drawing import Overlay, category_hues, overlay
from vistune.page.render import data_uri, load_template

_MOST_BARS = 16  # rows of a plot


@dataclass(frozen=True)
class Span:
    """A piece of text; ``mark``: why it stands out, or empty."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class ShownPicture:
    file: str
    source: str  # a data URI
    overlay: Overlay


@dataclass(frozen=True)
class Card:
    """One record of the gallery; ``note``: why a picture is not shown."""

    record: Examined
    evidence: Mapping[str, Sequence[str]]  # flag -> words
    pictures: list[ShownPicture]
    note: str
    dialogue: list[tuple[list[Span], list[Span]]]


@dataclass(frozen=True)
class Bar:
    """A row of a plot; ``share`` of the longest row, 0 to 1."""

    name: str
    share: float
    label: str


@dataclass(frozen=True)
class Column:
    share: float  # of the highest column
    title: str


@dataclass(frozen=True)
class Histogram:
    name: str
    columns: list[Column]
    first: str
    last: str
    facts: str


def write_page(
    path: Path,
    figures: dict[str, Any],
    chosen: Sequence[tuple[Examined, dict[str, list[str]]]],
    annotated: Annotated,
    images: Path | None,
) -> Path:
    """Write the page from the content of ``audit.json`` and the records chosen for its gallery."""
    script = resources.files(__package__).joinpath("audit.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    cards = [_card(record, evidence, annotated, images) for record, evidence in chosen]
    page = load_template(__package__, "audit.html.j2").render(
        figures=figures,
        sources=[Path(name).name for name in (figures["instances"], figures["captions"]) if name],
        chair=figures["invented_objects"]["by_type"],
        categories=_category_bars(figures["invented_objects"]["by_category"]),
        kinds=_count_bars(figures["question_kinds"]),
        openings=_count_bars(figures["first_words"]),
        leaks={side: _count_bars(rows) for side, rows in figures["leaks"]["most_common"].items()},
        histograms=[_histogram(name, row) for name, row in figures["lengths"].items() if row["count"]],
        cards=cards,
        flags=[(flag, sum(flag in card.evidence for card in cards)) for flag in FLAGS],
        with_pictures=images is not None,
        script=script,
        digest=digest,
    )
    path.write_text(page, encoding="utf-8")
    return path


def _card(
    record: Examined, evidence: Mapping[str, Sequence[str]], annotated: Annotated, images: Path | None
) -> Card:
    pictures, notes = [], []
    for file in record.files if images is not None else ():
        assert images is not None
        shown = _picture(file, annotated, images)
        if isinstance(shown, ShownPicture):
            pictures.append(shown)
        else:
            notes.append(f"{file}: {shown}")
    dialogue = [(_spans(exchange, True), _spans(exchange, False)) for exchange in record.exchanges]
    return Card(record, evidence, pictures, "; ".join(notes), dialogue)


def _picture(file: str, annotated: Annotated, images: Path) -> ShownPicture | str:
    """The picture with its boxes, or why it cannot be shown."""
    if flaw := outside(file):
        return flaw.reason
    try:
        picture = open_image(images / file)
    except UnusableImageError as error:
        return error.flaw.reason
    boxes = annotated.boxes(file) if annotated.knows(file) else []
    drawn = overlay(boxes, picture.height / picture.width, category_hues(sorted({b.category for b in boxes})))
    return ShownPicture(file, data_uri(picture), drawn)


def _spans(exchange: Exchange, of_question: bool) -> list[Span]:
    """A turn's text, cut so that invented objects and leaks stand by themselves."""
    text = exchange.question if of_question else exchange.answer
    leak = exchange.question_leak if of_question else exchange.answer_leak
    marks = (
        [(m.start, m.end, "invented") for m in exchange.invented]
        if of_question == exchange.in_question
        else []
    )
    if leak:
        start = text.index(leak)
        marks.append((start, start + len(leak), "leak"))
    spans, at = [], 0
    for start, end, mark in sorted(marks):
        if start >= at:
            spans += [Span(text[at:start]), Span(text[start:end], mark)]
            at = end
    return [span for span in (*spans, Span(text[at:])) if span.text]


def _category_bars(rows: Mapping[str, Mapping[str, int]]) -> list[Bar]:
    most = max((row["invented"] for row in rows.values()), default=0)
    return [
        Bar(name, row["invented"] / most, f"{row['invented']:,} of {row['named']:,}")
        for name, row in list(rows.items())[:_MOST_BARS]
    ]


def _count_bars(counts: Mapping[str, int]) -> list[Bar]:
    total, most = sum(counts.values()), max(counts.values(), default=0)
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return [Bar(name, count / most, f"{count:,}") for name, count in ordered[:_MOST_BARS] if total]


def _histogram(name: str, figures: Mapping[str, Any]) -> Histogram:
    bins = figures["histogram"]
    most = max(count for _, _, count in bins)
    columns = [
        Column(count / most, f"{low if low == high else f'{low} to {high}'}: {count:,}")
        for low, high, count in bins
    ]
    facts = "median {p50:,}, 90% from {p5:,} to {p95:,}, largest {largest:,}".format_map(figures)
    low, high, _ = bins[-1]
    return Histogram(name, columns, f"{bins[0][0]:,}", f"{low:,}{'+' if high > low else ''}", facts)
