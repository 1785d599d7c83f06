"""A conversation with a checkpoint: one picture, many turns, answers as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from vistune.conversation import Conversation, Turn, ask, gpt, human
from vistune.data.images import UnusableImageError, open_image
from vistune.errors import VistuneError
from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import stream

MAX_NEW_TOKENS = 512


class ChatSession:
    """Keeps the turns of one conversation.

    Raises:
        VistuneError: the picture cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, picture: Path | None) -> None:
        self._checkpoint, self._picture = checkpoint, picture
        self._pixels: torch.Tensor | None = None
        if picture is not None:
            try:
                pixels = checkpoint.preprocess(open_image(picture))
            except UnusableImageError as error:
                raise VistuneError(str(error)) from error
            self._pixels = torch.from_numpy(pixels)[None].to(checkpoint.model.device)
        self._turns: list[Turn] = []

    def reset(self) -> None:
        """Forget all turns; the picture stays."""
        self._turns.clear()

    def ask(self, question: str) -> Iterator[str]:
        """Stream the answer, piece by piece. The turn is kept once the answer is complete."""
        picture = str(self._picture) if self._picture and not self._turns else None
        asked = [*self._turns, human(*ask(question, picture))]
        prompt = self._checkpoint.renderer.encode_prompt(Conversation("chat", tuple(asked)))
        room = self._checkpoint.recipe.max_length - len(prompt.ids)
        if room <= 0:
            raise VistuneError(
                f"The conversation takes {len(prompt.ids)} tokens and the model reads "
                f"{self._checkpoint.recipe.max_length}. Start anew with /reset."
            )
        answer = ""
        for text in self._stream(prompt.ids, min(room, MAX_NEW_TOKENS)):
            yield text[len(answer) :]
            answer = text
        self._turns = [*asked, gpt(answer)]

    def _stream(self, prompt: list[int], most: int) -> Iterator[str]:
        """The answer so far, again and again, as it grows by whole characters."""
        checkpoint = self._checkpoint
        ids: list[int] = []
        for token in stream(checkpoint.model, prompt, self._pixels, checkpoint.stop, most):
            ids.append(token)
            if ids[-len(checkpoint.stop) :] == checkpoint.stop:
                ids = ids[: -len(checkpoint.stop)]
            text = checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip()
            if not text.endswith("\ufffd"):
                yield text
