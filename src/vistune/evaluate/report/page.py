"""The page about scores: one HTML file that needs nothing else; all text is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from vistune import __version__
from vistune.data.pictures import Pictures
from vistune.errors import Problem, write_problems
from vistune.evaluate.measure import Measure
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.published import Published
from vistune.evaluate.reasons import detail_of, remarks, set_aside_reasons, unread_reasons
from vistune.evaluate.report.gallery import MOST, SEED, Gaps, find_gaps, make_gallery
from vistune.evaluate.report.plots import plot
from vistune.evaluate.score import SCORES, Scored, to_json, write_json
from vistune.evaluate.table import (
    NOT_SAID,
    deviations_of,
    made_lines,
    measures_of,
    source_of,
    sources_of,
    titled,
)
from vistune.page.render import load_template
from vistune.progress import say

MISSING = "missing_pictures.jsonl"
_EXAMPLES = 20  # listed for each reason


@dataclass(frozen=True)
class Row:
    """One measure of all runs.

    Attributes:
        measure: of the one run, or the mean over several.
        deviation: between runs, where there are several.
        blind: of the same questions without the pictures, where they were asked.
    """

    name: str
    title: str
    measure: Measure
    runs: list[Measure | None]
    deviation: float | None
    blind: Measure | None


@dataclass(frozen=True)
class Reason:
    """Why answers were not read or not counted: some of them as (where, what)."""

    name: str
    count: int
    examples: list[tuple[str, str]]


def write_report(
    out: Path, runs: Sequence[Scored], published: Sequence[Published], images: Path | None = None
) -> Path:
    """Write a folder about the runs of one benchmark, and the page in it, whose path is returned.

    Several runs have a folder each, named by its number. A place of pictures with gaps is told, and what is
    missing listed in ``missing_pictures.jsonl``.
    """
    out.mkdir(parents=True, exist_ok=True)
    if len(runs) == 1:
        runs[0].write(out)
    else:
        for number, run in enumerate(runs, 1):
            run.write(out / str(number))
        write_json(out / SCORES, to_json(runs))
    page = out / "report.html"
    gaps = write_page(page, runs, published, images)
    if gaps and gaps.missing:
        say(str(gaps))
        write_problems(out / MISSING, [Problem(name, "picture is missing") for name in gaps.missing])
    return page


def write_page(
    path: Path,
    runs: Sequence[Scored],
    published: Sequence[Published],
    images: Path | None = None,
    most: int = MOST,
    seed: int = SEED,
    blind: Scored | None = None,
) -> Gaps | None:
    """Write the page about the runs of one benchmark.

    Args:
        published: the rows to stand beside; none where a run is not complete.
        images: where the pictures lie; without it the page shows none.
        most: answers in its gallery, drawn with ``seed``.
        blind: of a single run: the same questions asked without the pictures.

    Returns:
        Which pictures are not there; None without ``images``.

    Raises:
        VistuneError: there is no place of pictures at ``images``.
    """
    pictures = Pictures(images) if images else None
    gaps = find_gaps(pictures, runs) if pictures else None
    rows = _rows(runs, blind)
    values = {row.name: row.measure.value for row in rows}
    script = resources.files(__package__).joinpath("score.js").read_text(encoding="utf-8")
    page = load_template(__package__, "score.html.j2").render(
        bench=runs[0].bench,
        runs=runs,
        rows=rows,
        blind=blind,
        headline=next((row for row in rows if row.name == runs[0].bench.headline), None),
        published=published,
        columns=[name for name in values if any(name in row.scores for row in published)],
        values=values,
        sources=sources_of(published),
        source_of=source_of,
        titled=titled,
        plot=plot(runs, values, published),
        made=[(run.path, made_lines(run.made)) for run in runs],
        not_said=NOT_SAID,
        unread=_answers(unread_reasons([outcome for run in runs for outcome in run.unread])),
        remarks=_answers(remarks([outcome for run in runs for outcome in run.outcomes])),
        set_aside=_set_aside(runs),
        gallery=make_gallery(runs, pictures, most, seed),
        judged=all(outcome.right is None for run in runs for outcome in run.outcomes),
        seed=seed,
        gaps=gaps,
        version=__version__,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    path.write_text(page, encoding="utf-8")
    return gaps


def _rows(runs: Sequence[Scored], blind: Scored | None) -> list[Row]:
    lower, deviations = runs[0].bench.lower_is_better, deviations_of(runs)
    return [
        Row(
            name,
            titled(name, lower),
            measure,
            [run.measures.get(name) for run in runs],
            deviations.get(name),
            blind.measures.get(name) if blind else None,
        )
        for name, measure in measures_of(runs).items()
    ]


def _answers(groups: Mapping[str, Sequence[Outcome]]) -> list[Reason]:
    return [
        Reason(name, len(group), [(o.id, detail_of(o) or o.answer) for o in group[:_EXAMPLES]])
        for name, group in groups.items()
    ]


def _set_aside(runs: Sequence[Scored]) -> list[Reason]:
    found = set_aside_reasons([problem for run in runs for problem in run.problems])
    return [
        Reason(name, len(group), [(problem.place, problem.detail) for problem in group[:_EXAMPLES]])
        for name, group in found.items()
    ]
