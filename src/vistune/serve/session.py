"""A conversation with a checkpoint: pictures, many turns, answers as they are written.

It drives the built-in engine's batcher with one request at a time: what earlier turns have read, pictures
above all, is not computed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from vistune.conversation import Conversation, Picture, Turn, ask, gpt, human
from vistune.data.images import UnusableImageError, open_image
from vistune.errors import VistuneError
from vistune.model.checkpoint import Checkpoint
from vistune.serve.engine.batcher import Batcher, Job
from vistune.serve.engine.engine import BadRequestError, ChatRequest, EngineError, Piece, Sampling
from vistune.serve.engine.prepare import prepare
from vistune.serve.engine.writing import Writer

_CACHE_BYTES = 4 << 30  # of keys and values; a conversation that takes more is read again at each turn


@dataclass(frozen=True)
class _Shown:
    """A picture as the encoder sees it: a small square, however large the file's is."""

    path: Path
    square: Image.Image


class ChatSession:
    """Keeps the turns of one conversation, and the pictures that come with the next question.

    Args:
        sampling: ``max_tokens`` bounds an answer; the model's length does in any case.
    """

    def __init__(self, checkpoint: Checkpoint, sampling: Sampling | None = None) -> None:
        self._sampling = sampling or Sampling()
        self._square = checkpoint.preprocess.square
        as_it_is = dataclasses.replace(checkpoint.preprocess, kind="stretch", shortest=None)
        self._checkpoint = dataclasses.replace(checkpoint, preprocess=as_it_is)  # what is square stays
        self._batcher = Batcher(checkpoint, rows=1, cache_bytes=_CACHE_BYTES)
        self._turns: list[Turn] = []  # all questions are answered
        self._shown: dict[str, _Shown] = {}  # by the names that the turns have for them
        self._next: list[str] = []
        self._from_before = False  # what is next was shown before a reset

    @property
    def waiting(self) -> list[Path]:
        """The pictures that the next question comes with."""
        return [self._shown[name].path for name in self._next]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation so far; its pictures by their absolute paths."""
        return tuple(Turn(turn.speaker, tuple(map(self._by_path, turn.content))) for turn in self._turns)

    def show(self, path: Path) -> None:
        """Put one more picture before the next question.

        Raises:
            VistuneError: it cannot be read, or the model does not read so many.
        """
        try:
            picture = open_image(path)
        except UnusableImageError as error:
            raise VistuneError(str(error)) from error
        names = [] if self._from_before else self._next
        patches, length = self._checkpoint.model.vision.patches, self._checkpoint.recipe.max_length
        if (len(names) + 1) * patches >= length:
            raise VistuneError(
                f"{path}: one picture too many. Each takes {patches} tokens of the {length} that the model "
                "reads. Ask about the others first, or about fewer."
            )
        name = f"{len(self._shown)}"
        self._shown[name] = _Shown(path.absolute(), self._square(picture))
        self._next, self._from_before = [*names, name], False

    def reset(self, pictures: bool = True) -> None:
        """Forget all turns. The pictures shown last come with the next question, unless new ones are shown;
        without ``pictures``, none."""
        pictured = [found for turn in self._turns if (found := Conversation("", (turn,)).pictures)]
        if not pictures:
            self._next, self._from_before = [], False
        elif not self._next and pictured:
            self._next, self._from_before = pictured[-1], True
        self._turns = []

    def ask(self, question: str) -> Generator[str]:
        """Stream the answer; a piece for each step of the model, often empty.

        A caller that closes the iterator stops the answer; the turn is kept as far as it was told. Without a
        word of an answer, nothing is kept, and the pictures wait for the next question.

        Raises:
            VistuneError: no question, or a conversation that is longer than the model reads.
        """
        turns = [*self._turns, human(*ask(_checked(question), self._next))]
        pieces = self._begin(turns)
        answer, ended = "", False
        try:
            while not ended:
                self._batcher.step()
                text = "".join(piece.text for piece in pieces)
                ended = any(piece.finish for piece in pieces)
                pieces.clear()
                answer += text
                yield text
        except torch.OutOfMemoryError as error:
            raise VistuneError("Out of memory. Start anew with /reset, or show fewer pictures.") from error
        finally:
            if not ended:
                self._batcher.fail(EngineError("stopped"))  # begins anew; what is cached stays
            if answer:
                self._turns, self._next, self._from_before = [*turns, gpt(answer)], [], False

    def _begin(self, turns: list[Turn]) -> list[Piece]:
        """Queue a request; its pieces come into the list, step by step."""
        talk = Conversation("chat", tuple(turns))
        squares = {name: self._shown[name].square for name in talk.pictures}
        as_long_as_fits = dataclasses.replace(self._sampling, max_tokens=None)
        try:
            prepared = prepare(self._checkpoint, ChatRequest(talk, squares, as_long_as_fits))
        except BadRequestError as error:
            raise VistuneError(f"{error} /reset starts anew.") from error
        most = min(prepared.most, self._sampling.max_tokens or prepared.most)
        pieces: list[Piece] = []

        def take(piece: Piece | Exception) -> None:
            if isinstance(piece, Piece):
                pieces.append(piece)

        writer = Writer(self._checkpoint.tokenizer, self._sampling.stop)
        prepared = dataclasses.replace(prepared, most=most)
        self._batcher.waiting.append(Job(prepared, self._sampling, writer, take))
        return pieces

    def _by_path(self, part: str | Picture) -> str | Picture:
        return Picture(str(self._shown[part.file].path)) if isinstance(part, Picture) else part


def _checked(question: str) -> str:
    if not question.strip():
        raise VistuneError("The question is empty. Ask in words.")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise VistuneError(f"The question is not valid Unicode: {question[error.start]!r}.") from error
    return question
