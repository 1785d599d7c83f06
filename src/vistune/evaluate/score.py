"""Answers files -> scores. No model is needed, and nothing but numpy is heavy here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems
from vistune.evaluate.benches.bench import Bench, BenchFiles, refuse_ignored
from vistune.evaluate.benches.registry import find_bench
from vistune.evaluate.match import match
from vistune.evaluate.measure import Measure, measures
from vistune.evaluate.outcome import Outcome, write_outcomes
from vistune.evaluate.sheet import Sheet, read_sheet
from vistune.folders import refuse_used
from vistune.question import Question, Questions

SCORES, OUTCOMES, SET_ASIDE = "scores.json", "outcomes.jsonl", "set_aside.jsonl"
BLIND_OUTCOMES = "outcomes_blind.jsonl"
_PATHS = ("data", "annotations", "captions", "splits")  # of BenchFiles


@dataclass(frozen=True)
class Scored:
    """What one answers file is worth.

    Attributes:
        path: the answers file.
        measures: in the benchmark's order.
        missing: questions without an answer that could be counted.
        problems: of the benchmark's file and of the answers file.
        made: how the answers were made; empty where nobody wrote it down.
    """

    bench: Bench
    path: Path
    questions: Questions
    outcomes: list[Outcome]
    measures: dict[str, Measure]
    missing: list[Question]
    problems: list[Problem]
    made: Mapping[str, Any]

    @property
    def counted(self) -> int:
        """Answers that the measures are over: one that cannot be read is wrong, but a review is left out."""
        return len(self.outcomes) - (len(self.unread) if self.bench.judged else 0)

    @property
    def complete(self) -> bool:
        """Every question of the benchmark is answered, and counted: the measures are its score."""
        return not self.missing and self.questions.whole and self.counted == len(self.outcomes)

    @property
    def title(self) -> str:
        """The benchmark's, and which part of it."""
        part = self.questions.part
        return f"{self.bench.title} ({part})" if part else self.bench.title

    @property
    def unread(self) -> list[Outcome]:
        """Answers of which nothing could be understood."""
        return [outcome for outcome in self.outcomes if outcome.read is None]

    def shortfall(self) -> str:
        """Why the measures are not the benchmark's score; empty where they are."""
        if self.complete:
            return ""
        title, answered = self.title, self.counted
        of = self.questions.official or len(self.questions.questions)
        if answered >= of:
            return f"{answered:,} questions, and {title} has {of:,}: not its score"
        return f"{answered:,} of {title}'s {of:,} questions: not its score"

    def to_json(self) -> dict[str, Any]:
        """The content of ``scores.json``: percent throughout."""
        return {
            **_head([self]),
            "questions": len(self.questions.questions),
            "answered": len(self.outcomes),
            **self._figures(),
            "set_aside": count_by_reason(self.problems),
            "answers": str(self.path),
            "made": dict(self.made),
            "vistune": __version__,
        }

    def write(self, folder: Path, blind: Scored | None = None) -> None:
        """Write ``scores.json``, ``outcomes.jsonl`` and ``set_aside.jsonl`` into ``folder``.

        Args:
            blind: the same questions asked without the pictures: told under ``blind``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_outcomes(folder / OUTCOMES, self.outcomes)
        write_problems(folder / SET_ASIDE, self.problems)
        content = self.to_json()
        if blind:
            write_outcomes(folder / BLIND_OUTCOMES, blind.outcomes)
            content["blind"] = {"answered": len(blind.outcomes), **blind._figures()}
        write_json(folder / SCORES, content)

    def _figures(self) -> dict[str, Any]:
        return {
            **_told([self], self.measures),
            "unread": len(self.unread),
        }


def score_files(bench_name: str, paths: Sequence[Path], files: BenchFiles) -> list[Scored]:
    """Score answers files of one benchmark, each by itself.

    Args:
        files: where ``files.data`` is None, the benchmark's files are those that the answers were made with.

    Raises:
        VistuneError: no such benchmark, an option that it would ignore, a file that cannot be read or that is
            given twice, or one that answers no question of it.
    """
    bench = find_bench(bench_name)
    refuse_ignored(bench, files)
    twice = {path for number, path in enumerate(paths) if path in paths[:number]}
    if twice:
        raise VistuneError(f"{min(twice)}: given twice. Give each run's answers once.")
    loaded: dict[BenchFiles, Questions] = {}
    return [_score_file(bench, read_sheet(path), files, loaded) for path in paths]


def score_outcomes(bench: Bench, questions: Questions, sheet: Sheet, files: BenchFiles) -> Scored:
    """Score a sheet that is not joined yet.

    Raises:
        VistuneError: it answers no question of the benchmark.
    """
    asked = questions.questions
    joined = match(bench, asked, sheet)
    outcomes = bench.score(asked, joined.sheet, files)
    order = getattr(bench, "order", None)
    found = measures(outcomes, order(outcomes) if order else bench.names)
    problems = [*questions.problems, *joined.problems]
    return Scored(bench, sheet.path, questions, outcomes, found, joined.missing, problems, sheet.made)


def key_of_scores(runs: Sequence[Scored]) -> str:
    """``scores``, or another word where they are not the benchmark's."""
    return "scores" if all(run.complete for run in runs) else "scores_of_answered"


def to_json(runs: Sequence[Scored]) -> dict[str, Any]:
    """The content of ``scores.json``: of several runs their mean, the spread between them, and each."""
    if len(runs) == 1:
        return runs[0].to_json()
    from vistune.evaluate.runs import means, over_runs

    over = over_runs([run.measures for run in runs])
    return {
        **_head(runs),
        **_told(runs, means([run.measures for run in runs], [run.outcomes for run in runs])),
        "deviation": dict(over.deviation),
        "runs": [run.to_json() for run in runs],
        "vistune": __version__,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object for people, too."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _head(runs: Sequence[Scored]) -> dict[str, Any]:
    bench = runs[0].bench
    return {
        "bench": bench.name,
        "title": runs[0].title,
        "complete": all(run.complete for run in runs),
        "headline": bench.headline,
        "lower_is_better": sorted(bench.lower_is_better),
        "neither_is_better": sorted(bench.neither_is_better),
    }


def _told(runs: Sequence[Scored], found: Mapping[str, Measure]) -> dict[str, Any]:
    """Values, intervals and counts of measures, by name."""
    return {
        key_of_scores(runs): {name: measure.value for name, measure in found.items()},
        "intervals": {name: [measure.low, measure.high] for name, measure in found.items()},
        "counts": {name: measure.count for name, measure in found.items()},
    }


def _score_file(bench: Bench, sheet: Sheet, files: BenchFiles, loaded: dict[BenchFiles, Questions]) -> Scored:
    files = _with_made(bench, sheet, files)
    load_from = getattr(bench, "load_from", None)
    if files.data is None and load_from:
        return score_outcomes(bench, load_from(sheet, files), sheet, files)
    if files not in loaded:
        loaded[files] = bench.load(files)
    return score_outcomes(bench, loaded[files], sheet, files)


def _with_made(bench: Bench, sheet: Sheet, files: BenchFiles) -> BenchFiles:
    """``files``; where no data file is given, those that the answers were made with and that still exist."""
    made = sheet.made.get("files") or {}
    if files.data is not None or not made.get("data") or not Path(made["data"]).is_file():
        return files
    named: dict[str, Any] = {name: Path(made[name]) for name in _PATHS if made.get(name)}
    if made.get("split"):
        named["split"] = made["split"]
    return replace(
        files, **{name: named[name] for name in named if name in bench.takes and name not in files.given}
    )


def run_score(
    bench_name: str,
    answers: Sequence[Path],
    files: BenchFiles,
    images: Path | None = None,
    out: Path | None = None,
    json_file: Path | None = None,
) -> list[Scored]:
    """``vistune score``: print the table; write ``json_file``, and ``out`` with its page.

    Raises:
        VistuneError: as :func:`score_files`; ``images`` without ``out``, or ``out`` is in use.
    """
    from vistune.evaluate.published import published_beside
    from vistune.evaluate.table import render, score_parts

    if images and not out:
        raise VistuneError("--images would be ignored: pictures are for the page. Give --out DIR, too.")
    if out:
        refuse_used(out)
    runs = score_files(bench_name, answers, files)
    published = published_beside(runs)
    print(render(score_parts(runs, published)))
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_file, to_json(runs))
    if out:
        from vistune.evaluate.report.page import write_report

        print(write_report(out, runs, published, images))
    return runs
