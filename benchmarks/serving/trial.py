"""What every part is measured on: a model, its pictures, and what is asked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Trial:
    """Attributes:
    folder: the checkpoint, saved.
    pictures: JPEG files of scenes.
    most: new tokens of an answer at most; ``fixed``: every greedy answer has so many.
    """

    name: str
    folder: Path
    checkpoint: Checkpoint
    pictures: Sequence[Path]
    most: int
    fixed: bool


def data_uri(picture: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")


def asked(text: str, picture: Path) -> dict[str, Any]:
    """A question about a picture, as OpenAI's clients write it."""
    url = {"type": "image_url", "image_url": {"url": data_uri(picture)}}
    return {"role": "user", "content": [url, {"type": "text", "text": text}]}


def followed(messages: Sequence[dict[str, Any]], answer: str, text: str) -> list[dict[str, Any]]:
    """The conversation, its answer and the next question."""
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": text}]
