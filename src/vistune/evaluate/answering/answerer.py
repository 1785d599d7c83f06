"""Who answers: a checkpoint of ours, any other of transformers, or a text-only LLM behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from vistune.data.images import Flaw
from vistune.data.pictures import Pictures
from vistune.question import Question


class Answerer(Protocol):
    """Answers questions, each alone.

    Attributes:
        description: all that an answer depends on beside question and picture; stored with the answers.
    """

    description: dict[str, Any]

    def answer(
        self, questions: Sequence[Question], pictures: Pictures | None, most: int, rows: int
    ) -> Iterator[tuple[Question, str | Flaw]]:
        """Answers as they end, in any order; a flaw in the place of an answer to what cannot be asked.

        Args:
            pictures: where they lie; None asks the same questions without them.
            most: new tokens at most.
            rows: questions that are answered together at most.
        """
        ...
