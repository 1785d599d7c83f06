"""What a benchmark asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vistune.errors import Problem


@dataclass(frozen=True)
class Question:
    """One question, asked alone.

    Attributes:
        id: its benchmark's, as text.
        text: all that the model reads beside the picture.
        image: the picture's file in the folder of images; None where there is none.
        references: what counts as right, or what a judge compares with; may be empty.
        kind: the category it is counted in; empty where there are none.
        details: what only its benchmark's scoring reads.
    """

    id: str
    text: str
    image: str | None = None
    references: tuple[str, ...] = ()
    kind: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """A benchmark's questions, and what of its file could not be used.

    Attributes:
        official: how many the published benchmark has; None where nobody has published one.
        part: which part of the benchmark they are, where it is not the one that figures are published of.
    """

    questions: list[Question]
    problems: list[Problem]
    official: int | None = None
    part: str = ""

    @property
    def whole(self) -> bool:
        """They are as many as the published benchmark has, where there is one."""
        return self.official is None or len(self.questions) == self.official
