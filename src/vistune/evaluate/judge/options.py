"""The options of `vistune judge`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vistune.llm.options import AskOptions


class JudgeOptions(AskOptions):
    """The command's options, by their names there; ``model`` and what follows it are the judge's.

    Attributes:
        answers: the candidate's, to be judged.
        data: the benchmark's questions.
        context: what the judge knows of each picture.
        references: the answers to compare with.
        runs: how often everything is judged.
        swap: judge each run twice, the second time with the candidate first.
        attempts: replies asked for one review at most, where one holds no two scores.
        prompt: a prompt file in the place of the one shipped.
    """

    bench: str
    answers: Path
    data: Path
    context: Path
    references: Path
    out: Path
    runs: int = Field(default=1, ge=1)
    swap: bool = False
    attempts: int = Field(default=3, ge=1)
    prompt: Path | None = None
