"""What answers: the built-in engine, or any OpenAI-compatible one behind the same guards and page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from vistune.conversation import Conversation

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How an answer is written.

    Attributes:
        temperature: 0 is greedy.
        top_p: the likeliest tokens whose probabilities reach it are drawn from.
        seed: fixes the draws; None draws anew each time.
        max_tokens: new tokens at most; None for as many as the model reads.
        stop: an answer ends before any of these.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChatRequest:
    """A conversation that ends with a question, its pictures by the names that it uses, and how to answer.

    Attributes:
        streamed: the reader wants words as they come; else one piece is enough.
    """

    conversation: Conversation
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    sampling: Sampling = Sampling()
    streamed: bool = True


@dataclass(frozen=True)
class Usage:
    """Tokens read and written; ``cached``: of those read, how many were not computed again."""

    prompt: int
    completion: int
    cached: int = 0


@dataclass(frozen=True)
class Piece:
    """The next words of an answer; the last piece says why it ended and what it took."""

    text: str
    finish: Finish | None = None
    usage: Usage | None = None


class BadRequestError(ValueError):
    """The model cannot be asked this; the message says why, for the user. ``param`` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BusyError(RuntimeError):
    """The queue is full; ``retry_after``: seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("The server is busy. Try again later.")
        self.retry_after = retry_after


class EngineError(RuntimeError):
    """The engine itself failed; nothing about it is the user's fault."""


class Engine(Protocol):
    """One model.

    Attributes:
        name: by which it is asked for.
        card: what people should know of it: template, parts, dtype, context length, checkpoint hash ...
        context: tokens that it reads at most, pictures and answer included; None where nobody says.
    """

    name: str
    card: Mapping[str, Any]
    context: int | None

    def answer(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """Stream the answer. Closing the iterator (``aclose``) cancels it and frees what it took.

        Raises:
            BadRequestError, BusyError, EngineError: before the first piece, or in the place of one.
        """
        ...

    def state(self) -> Mapping[str, float]:
        """Figures for ``/metrics``: ``running``, ``waiting`` requests, ``cache_bytes``, ``tokens_read``,
        ``tokens_cached``, ``tokens_written`` ..."""
        ...

    async def close(self) -> None:
        """Stop; what is being answered is cancelled."""
        ...
