"""What a benchmark is to the rest of the house."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

from vistune.errors import VistuneError
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Sheet
from vistune.question import Question, Questions


@dataclass(frozen=True)
class BenchFiles:
    """Where a benchmark's files are, and which part of it is meant. Each benchmark takes some of these.

    Attributes:
        data: questions, problems, labels or instances: the benchmark's main file.
        annotations: VQA's ten human answers for each question.
        captions: COCO captions, whose objects count as present too (CHAIR).
        splits, split: ScienceQA's lists of problem ids, and which of them.
        stored_indices: read the answer indices of a ScienceQA predictions file, not its texts.
    """

    data: Path | None = None
    annotations: Path | None = None
    captions: Path | None = None
    splits: Path | None = None
    split: str | None = None
    stored_indices: bool = False

    @property
    def given(self) -> list[str]:
        """Names of the options that are not at their default."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


class Bench(Protocol):
    """One benchmark: its questions, and what their answers are worth.

    Attributes:
        name: as it is typed, e.g. ``llava-bench-wild``.
        title: as people write it.
        takes: the options of :class:`BenchFiles` that it reads.
        names: its measures, in the order of their publication; those of own data come from the data.
        lower_is_better: the measures of which less is better.
        neither_is_better: the measures that tell a leaning, not a merit.
        most: new tokens that an answer may take.
        headline: the one measure that is the benchmark's score.
        judged: an LLM scores the answers (``vistune judge``); what is scored here are its reviews.
    """

    name: str
    title: str
    takes: frozenset[str]
    names: tuple[str, ...]
    lower_is_better: frozenset[str]
    neither_is_better: frozenset[str]
    most: int
    headline: str
    judged: bool

    def load(self, files: BenchFiles) -> Questions:
        """Its questions.

        Raises:
            VistuneError: a file is missing, unreadable, or holds no question.
        """
        ...

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        """What each answered question is worth, in the order of ``questions``.

        ``sheet`` is joined already: its rows' ids are ids of ``questions``, each once.
        """
        ...


def refuse_ignored(bench: Bench, files: BenchFiles) -> None:
    """Raise VistuneError where an option is given that ``bench`` would not read."""
    ignored = [name for name in files.given if name not in bench.takes]
    if ignored:
        flag = "--" + ignored[0].replace("_", "-")
        takes = ", ".join("--" + name.replace("_", "-") for name in sorted(bench.takes))
        raise VistuneError(f"{flag} would be ignored by {bench.name}. It takes {takes}.")
