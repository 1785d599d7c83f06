"""Two scored runs and their common questions."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune.errors import Problem, VistuneError
from vistune.evaluate.outcome import Outcome, read_outcomes
from vistune.evaluate.score import OUTCOMES, SCORES

OTHER_REFERENCES = "scored with other references in the two runs"
OTHER_PICTURE = "asked about another picture in the two runs"


@dataclass(frozen=True)
class Run:
    """One folder that scoring wrote.

    Attributes:
        name: short, and not the other run's.
        outcomes: by question id.
        scores: the content of ``scores.json``.
    """

    name: str
    folder: Path
    outcomes: Mapping[str, Outcome] = field(repr=False)
    scores: Mapping[str, Any] = field(repr=False)

    @property
    def bench(self) -> str:
        return str(self.scores["bench"])

    @property
    def title(self) -> str:
        return str(self.scores.get("title") or self.bench)

    @property
    def measures(self) -> list[str]:
        """Names in the order of their publication, then of first sight."""
        told = self.scores.get("scores") or self.scores.get("scores_of_answered") or {}
        seen = (name for outcome in self.outcomes.values() for name in outcome.sums)
        return list(dict.fromkeys((*told, *seen)))

    def listed(self, key: str) -> list[str]:
        """A list of measures in ``scores.json``; empty where it has none."""
        return [str(name) for name in self.scores.get(key) or ()]


@dataclass(frozen=True)
class Common:
    """The questions that both runs answered, in A's order.

    Attributes:
        only_a, only_b: how many one run alone answered.
        whole: how many the benchmark has.
        other_words: how many are asked in other words in the two runs.
        problems: questions of one id that are not the same question.
    """

    a: list[Outcome]
    b: list[Outcome]
    only_a: int
    only_b: int
    whole: int
    other_words: int
    problems: list[Problem]


def load_runs(a: Path, b: Path) -> tuple[Run, Run]:
    """Both runs.

    Raises:
        VistuneError: a folder is not one that scoring wrote, they are one, or of different benchmarks.
    """
    if a.resolve() == b.resolve():
        raise VistuneError(f"{a}: is compared with itself. Name two different folders.")
    first, second = (Run(name, f, *_read(f)) for name, f in zip(short_names(a, b), (a, b), strict=True))
    if first.bench != second.bench:
        raise VistuneError(
            f"{a} holds answers to {first.bench}, {b} to {second.bench}: only runs of one benchmark compare."
        )
    return first, second


def common(a: Run, b: Run) -> Common:
    """Pair the runs' outcomes by question id.

    Raises:
        VistuneError: no question is left.
    """
    shared = [name for name in a.outcomes if name in b.outcomes]
    whys = {name: _another(a.outcomes[name], b.outcomes[name]) for name in shared}
    problems = [Problem(name, why) for name, why in whys.items() if why]
    kept = [name for name, why in whys.items() if not why]
    if not kept:
        found = f"ids in both: {len(shared)}, {problems[0].reason}" if shared else "no id is in both"
        raise VistuneError(
            f"{a.folder} and {b.folder}: have no common question ({found}). Score both with the same files."
        )
    firsts, seconds = [a.outcomes[name] for name in kept], [b.outcomes[name] for name in kept]
    return Common(
        firsts,
        seconds,
        len(a.outcomes) - len(shared),
        len(b.outcomes) - len(shared),
        max(_whole(a), _whole(b), len(a.outcomes.keys() | b.outcomes.keys())),
        sum(x.question != y.question for x, y in zip(firsts, seconds, strict=True)),
        problems,
    )


def short_names(a: Path, b: Path) -> tuple[str, str]:
    """The folders' names; where they are the same, with as many parents as tell them apart."""
    parts_a, parts_b = (Path(os.path.abspath(path)).parts for path in (a, b))
    most = max(len(parts_a), len(parts_b))
    size = next((n for n in range(1, most) if parts_a[-n:] != parts_b[-n:]), most)
    return "/".join(parts_a[-size:]), "/".join(parts_b[-size:])


def _another(a: Outcome, b: Outcome) -> str | None:
    """Why two outcomes of one id are not of one question."""
    if a.references != b.references:
        return OTHER_REFERENCES
    if a.image and b.image and Path(a.image).name != Path(b.image).name:
        return OTHER_PICTURE
    return None


def _whole(run: Run) -> int:
    count = run.scores.get("questions")
    return count if isinstance(count, int) else 0


def _read(folder: Path) -> tuple[dict[str, Outcome], dict[str, Any]]:
    if not folder.is_dir():
        raise VistuneError(f"{folder}: no such folder. Name two that `vistune score --out` wrote.")
    if (folder / "1" / OUTCOMES).is_file():
        raise VistuneError(f"{folder}: holds several runs. Name one of its folders, such as {folder / '1'}.")
    missing = [name for name in (SCORES, OUTCOMES) if not (folder / name).is_file()]
    if missing:
        raise VistuneError(
            f"{folder}: has no {' and no '.join(missing)}. Score its answers first: "
            "`vistune score`, or `vistune judge` where the benchmark needs one."
        )
    outcomes = _outcomes(folder / OUTCOMES)
    try:
        scores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        scores["bench"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VistuneError(f"{folder / SCORES}: names no benchmark ({error!r}). Score again.") from error
    return {outcome.id: outcome for outcome in outcomes}, scores


def _outcomes(path: Path) -> Sequence[Outcome]:
    outcomes = read_outcomes(path)
    twice = [name for name, count in Counter(outcome.id for outcome in outcomes).items() if count > 1]
    if twice:
        raise VistuneError(f"{path}: has ids twice: {len(twice)}, such as {twice[0]!r}. Score again.")
    if not outcomes:
        raise VistuneError(f"{path}: holds no outcome. Score again.")
    return outcomes
