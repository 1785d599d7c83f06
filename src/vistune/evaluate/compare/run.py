"""`vistune compare A B`: read two scored runs, compare them, tell and show where they differ."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.data.pictures import Pictures
from vistune.data.records import writing
from vistune.errors import VistuneError, count_by_reason
from vistune.evaluate.compare.differing import Pair, choose, pair_up
from vistune.evaluate.compare.page import write_page
from vistune.evaluate.compare.paired import Difference, as_row, differences
from vistune.evaluate.compare.runs import Common, Run, common, load_runs
from vistune.evaluate.compare.settings import Setting, differing
from vistune.evaluate.compare.table import table
from vistune.evaluate.score import write_json
from vistune.folders import refuse_used

PAGE, FIGURES, DIFFERING = "compare.html", "compare.json", "differing.jsonl"
SHOWN = 60


@dataclass(frozen=True)
class Compared:
    """Two runs, compared.

    Attributes:
        measures, dropped: as :func:`vistune.evaluate.compare.paired.differences` gives them.
        headline: the measure that is the benchmark's score, where ``scores.json`` names it.
        pairs: the common questions, in A's order.
        page: where the page is, if one was wanted.
    """

    a: Run
    b: Run
    common: Common
    settings: list[Setting]
    measures: list[Difference]
    dropped: dict[str, str]
    headline: str | None
    pairs: list[Pair]
    page: Path | None = None

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.a, self.b

    @property
    def leading(self) -> Difference:
        """The headline measure, or the first."""
        return next((m for m in self.measures if m.name == self.headline), self.measures[0])

    @property
    def silent(self) -> list[str]:
        """The runs, A or B, of which nobody wrote down how they were made."""
        return [letter for letter, run in zip("AB", self.runs, strict=True) if not run.scores.get("made")]

    @property
    def prompts_differ(self) -> bool:
        return bool(self.common.other_words) or any(setting.of_prompt for setting in self.settings)

    def table(self) -> str:
        """Plain text for a terminal."""
        return table(self)

    def figures(self) -> dict[str, Any]:
        """What ``--json`` holds."""
        return {
            "bench": self.a.bench,
            "title": self.a.title,
            **{
                letter: {"name": run.name, "folder": str(run.folder), "answered": len(run.outcomes)}
                for letter, run in zip("ab", self.runs, strict=True)
            },
            "questions": {
                "benchmark": self.common.whole,
                "compared": len(self.pairs),
                "only_a": self.common.only_a,
                "only_b": self.common.only_b,
                "asked_in_other_words": self.common.other_words,
                "set_aside": count_by_reason(self.common.problems),
            },
            "headline": self.headline,
            "measures": {measure.name: as_row(measure) for measure in self.measures},
            "not_compared": self.dropped,
            "outcomes": dict(Counter(pair.who for pair in self.pairs)),
            "made_differently": {setting.name: [setting.a, setting.b] for setting in self.settings},
            "prompts_differ": self.prompts_differ,
            "vistune": __version__,
        }


def compare_and_tell(
    a: Path,
    b: Path,
    images: Path | None = None,
    out: Path | None = None,
    json_file: Path | None = None,
    show: int = SHOWN,
) -> None:
    """The command: :func:`compare`, told on standard output."""
    compared = compare(a, b, images, out, json_file, show)
    print(compared.table())
    if compared.page:
        print(compared.page)


def compare(
    a: Path,
    b: Path,
    images: Path | None = None,
    out: Path | None = None,
    json_file: Path | None = None,
    show: int = SHOWN,
) -> Compared:
    """Compare two folders that scoring wrote.

    Args:
        images: the pictures, for the page.
        out: a new folder for ``compare.html``, ``compare.json`` and ``differing.jsonl``.
        json_file: for the figures; one that is there is overwritten.
        show: most questions on the page; ``differing.jsonl`` has all that differ.

    Raises:
        VistuneError: the runs cannot be compared, or a place to write is in use.
    """
    if images is not None and out is None:
        raise VistuneError("--images would be ignored without a page. Name the page's folder with --out.")
    if show < 0:
        raise VistuneError(f"--show {show}: expected 0 or more.")
    if out is not None:
        refuse_used(out)
    pictures = Pictures(images) if images is not None else None
    compared = _compared(*load_runs(a, b))
    if out is not None:
        compared = _write(out, compared, pictures, show)
    if json_file is not None:
        with writing(json_file):
            json_file.parent.mkdir(parents=True, exist_ok=True)
            write_json(json_file, compared.figures())
    return compared


def _compared(a: Run, b: Run) -> Compared:
    shared = common(a, b)
    lower = {*a.listed("lower_is_better"), *b.listed("lower_is_better")}
    neither = {*a.listed("neither_is_better"), *b.listed("neither_is_better")}
    names = list(dict.fromkeys((*a.measures, *b.measures)))
    headline = a.scores.get("headline") or b.scores.get("headline")
    measures, dropped = differences(shared.a, shared.b, names, lower, neither, headline)
    if not measures:
        reasons = "; ".join(f"{name} {why}" for name, why in dropped.items()) or "neither run has one"
        raise VistuneError(f"{a.folder} and {b.folder}: have no measure in common ({reasons}).")
    settings = differing(a.scores, b.scores)
    found = Compared(a, b, shared, settings, measures, dropped, headline, pairs=[])
    leading = found.leading
    return replace(found, pairs=pair_up(shared.a, shared.b, leading.name, leading.better or 1))


def _write(out: Path, compared: Compared, pictures: Pictures | None, show: int) -> Compared:
    try:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / FIGURES, compared.figures())
            rows = (_row(pair) for pair in compared.pairs if pair.lead)
            (out / DIFFERING).write_text("".join(rows), encoding="utf-8")
            page = write_page(out / PAGE, compared, choose(compared.pairs, show), pictures)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # it was empty before: half a comparison would be in the way
        raise
    return replace(compared, page=page)


def _row(pair: Pair) -> str:
    row = {"id": pair.id, "kind": pair.kind, "better": pair.who, "lead": pair.lead}
    return json.dumps({**row, "a": asdict(pair.a), "b": asdict(pair.b)}, ensure_ascii=False) + "\n"
