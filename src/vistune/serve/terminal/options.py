"""What ``vistune chat`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vistune.errors import VistuneError
from vistune.serve.engine.engine import Sampling


@dataclass(frozen=True)
class ChatOptions:
    """Attributes:
    images: pictures that come with the first question.
    ask: the only question; without it, questions are read from standard input until it ends.
    temperature: 0 is greedy; then ``top_p`` and ``seed`` would be ignored, and are refused.
    top_p: the likeliest tokens whose probabilities reach it are drawn from.
    seed: fixes the draws of each answer.
    max_tokens: new tokens of an answer at most.
    history: keep what is typed at a terminal for the next time.
    """

    images: tuple[Path, ...] = ()
    ask: str | None = None
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int = 512
    history: bool = True

    def sampling(self) -> Sampling:
        """How answers are written.

        Raises:
            VistuneError: an option is out of its range, or would be ignored.
        """
        ranges = {
            "--temperature": (self.temperature, 0 <= self.temperature < float("inf"), "0 or more"),
            "--top-p": (self.top_p, self.top_p is None or 0 < self.top_p <= 1, "above 0, up to 1"),
            "--seed": (self.seed, self.seed is None or 0 <= self.seed < 2**63, "0 or more, below 2**63"),
            "--max-tokens": (self.max_tokens, self.max_tokens >= 1, "1 or more"),
        }
        for name, (value, right, expected) in ranges.items():
            if not right:
                raise VistuneError(f"{name} {value}: expected {expected}.")
        for name, value in {"--top-p": self.top_p, "--seed": self.seed}.items():
            if not self.temperature and value is not None:
                raise VistuneError(f"{name} would be ignored at temperature 0. Give --temperature as well.")
        return Sampling(
            self.temperature,
            1.0 if self.top_p is None else self.top_p,
            self.seed,
            self.max_tokens,
        )
