"""Answers of a checkpoint of ours: a picture is read once for all questions on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from vistune import __version__
from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.images import Flaw, UnusableImageError
from vistune.data.pictures import Pictures
from vistune.data.pixels import PixelStore
from vistune.model.asking import prompt_of
from vistune.model.checkpoint import Checkpoint, load_checkpoint
from vistune.model.decode import complete
from vistune.model.fingerprint import fingerprint
from vistune.question import Question

TOO_LONG = "longer than the model reads"


class Ours:
    """A vistune checkpoint that answers greedily.

    Args:
        name: its folder, or ``starter``.

    Raises:
        VistuneError: it cannot be loaded.
    """

    def __init__(self, name: str | Path) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._checkpoint = load_checkpoint(name, dtype=dtype)
        self._checkpoint.model.to(device)
        self.description: dict[str, Any] = {
            "checkpoint": fingerprint(name),
            "class": "vistune checkpoint",
            "template": self._checkpoint.recipe.template,
            "prompt": _example(self._checkpoint),
            "dtype": str(dtype).removeprefix("torch."),
            "decoding": {"strategy": "greedy"},
            "versions": {
                "vistune": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        }

    def answer(
        self, questions: Sequence[Question], pictures: Pictures | None, most: int, rows: int
    ) -> Iterator[tuple[Question, str | Flaw]]:
        """See :class:`vistune.evaluate.answering.answerer.Answerer`."""
        for question, ids in answer_ids(self._checkpoint, questions, pictures, most, rows):
            if isinstance(ids, Flaw):
                yield question, ids
            else:
                yield question, self._checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip()


def answer_ids(
    checkpoint: Checkpoint, questions: Sequence[Question], pictures: Pictures | None, most: int, rows: int
) -> Iterator[tuple[Question, list[int] | Flaw]]:
    """The answers' ids, without their STOP; see :meth:`Ours.answer`."""
    prompts = [prompt_of(checkpoint, question, pictures is not None) for question in questions]
    room = checkpoint.recipe.max_length - most
    fitting = [n for n, prompt in enumerate(prompts) if len(prompt.ids) <= room]
    for number in sorted(set(range(len(prompts))) - set(fitting)):
        detail = f"{len(prompts[number].ids)} tokens and {most} for the answer, of {room + most}"
        yield questions[number], Flaw(TOO_LONG, detail)
    loader = _Loader(pictures, checkpoint)
    asked = [prompts[number] for number in fitting]
    for number, ids in complete(checkpoint.model, asked, loader.load, checkpoint.stop, most, rows):
        question = questions[fitting[number]]
        yield question, loader.flaws.get(question.image or "", ids)


class _Loader:
    """Loads pixels; a picture that cannot be used is blank, and its flaw is kept."""

    def __init__(self, pictures: Pictures | None, checkpoint: Checkpoint) -> None:
        self._store = PixelStore(pictures, checkpoint.preprocess) if pictures else None
        self._dtype = next(checkpoint.model.vision.parameters()).dtype
        self.flaws: dict[str, Flaw] = {}

    def load(self, files: Sequence[str]) -> Tensor:
        return torch.stack([self._one(file) for file in files]).to(self._dtype)

    def _one(self, file: str) -> Tensor:
        assert self._store is not None
        try:
            return self._store.load([file])[0]
        except UnusableImageError as error:
            self.flaws[file] = error.flaw
            size = self._store.size
            return torch.from_numpy(np.zeros((3, size, size), dtype=np.float32))


def _example(checkpoint: Checkpoint) -> str:
    """How a question is written, for people to read."""
    text: str = checkpoint.tokenizer.decode(prompt_of(checkpoint, Question("", "QUESTION", "picture")).ids)
    return re.sub(f"(?:{re.escape(IMAGE_PLACEHOLDER)})+", IMAGE_PLACEHOLDER, text)
