"""A conversation on the page: what is shown, and what is sent to the API."""

from __future__ import annotations

import base64
import re
import warnings
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vistune.serve.guards.formats import MEDIA_TYPES, NAMES

State = Literal["writing", "done", "stopped", "failed"]
Message = dict[str, Any]
_MARKUP = re.compile(r"<(?=[a-zA-Z/!?])|&(?=[#a-zA-Z])")
_OPENED = [name for name in MEDIA_TYPES if name != "MPO"]  # Pillow opens those as JPEG


class PictureError(Exception):
    """A picture of the conversation cannot be sent; the message is for the user."""


@dataclass
class Exchange:
    """A question, its pictures (files), and one model's answer.

    ``note``: why there is no answer, or what it took. ``seconds``: to the first word, and to the last.
    """

    question: str
    pictures: tuple[str, ...] = ()
    model: str = ""
    answer: str = ""
    state: State = "writing"
    note: str = ""
    seconds: tuple[float, float] | None = None
    tokens: int | None = None

    @property
    def counts(self) -> bool:
        """Whether the model is told of it on the next turn."""
        return self.state != "failed" and bool(self.answer)


@dataclass
class Talk:
    """One side of the page."""

    exchanges: list[Exchange] = field(default_factory=list)

    def shown(self) -> list[Message]:
        """The messages of a ``gr.Chatbot``."""
        return [message for exchange in self.exchanges for message in _shown(exchange)]

    def sent(self, upto: int, pictures: bool = True) -> list[Message]:
        """OpenAI's messages: all exchanges that count before ``upto``, and the question of that one.

        Args:
            pictures: send them; if not, words say where they were.

        Raises:
            PictureError: see :func:`data_uri`.
        """
        messages: list[Message] = []
        for exchange in self.exchanges[:upto]:
            if exchange.counts:
                messages.append(_asked(exchange, pictures))
                messages.append({"role": "assistant", "content": exchange.answer})
        return [*messages, _asked(self.exchanges[upto], pictures)]

    def pictures(self, upto: int) -> list[str]:
        """Files of the pictures in :meth:`sent`, in its order."""
        read = [exchange for exchange in self.exchanges[:upto] if exchange.counts]
        return [file for exchange in (*read, self.exchanges[upto]) for file in exchange.pictures]


def data_uri(file: str) -> str:
    """A picture's file, byte for byte.

    Raises:
        PictureError: it is gone (uploads are kept for some hours), or not of a format that is read.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise PictureError(
            "A picture of this conversation is no longer on the server. Clear, and send it again."
        ) from error
    return f"data:{_media_type(data)};base64,{base64.b64encode(data).decode('ascii')}"


def _media_type(data: bytes) -> str:
    """From the file's header alone; no pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=_OPENED) as picture:
                return MEDIA_TYPES[picture.format or ""]
    except Image.DecompressionBombError as error:
        raise PictureError("The picture has too many pixels.") from error
    except (OSError, ValueError, SyntaxError, KeyError) as error:
        raise PictureError(f"This is not a picture that can be read. {NAMES} can.") from error


def _shown(exchange: Exchange) -> list[Message]:
    question: list[Message] = [{"path": file, "alt_text": "picture"} for file in exchange.pictures]
    if exchange.question:
        question.append(_plain(exchange.question))
    messages: list[Message] = [{"role": "user", "content": question}]
    written = exchange.answer if exchange.state == "writing" else exchange.answer.rstrip()
    if exchange.state == "failed":
        written = "\n\n".join(part for part in (written, f"⚠ {exchange.note}") if part)
    elif exchange.state == "stopped":
        written = f"{written} … (stopped)".lstrip()
    elif exchange.state == "done" and not written:
        written = "(The model ended its answer before the first word.)"
    if written:
        messages.append({"role": "assistant", "content": [_plain(written)]})
    return messages


def _plain(text: str) -> Message:
    """Text that the component shows as it is: it renders HTML even where it renders no Markdown.

    Not a bare string: of that, it would strip the indentation. Signs that begin no tag and no entity are
    left alone, because the copy button copies what is given here.
    """
    return _text(_MARKUP.sub(lambda sign: escape(sign[0]), text))


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _asked(exchange: Exchange, pictures: bool) -> Message:
    if not pictures:
        places = ["[picture]"] * len(exchange.pictures)
        return {"role": "user", "content": "\n".join([*places, exchange.question])}
    parts: list[Message] = [
        {"type": "image_url", "image_url": {"url": data_uri(file)}} for file in exchange.pictures
    ]
    return {"role": "user", "content": [*parts, _text(exchange.question)]}


class Desk:
    """What one browser's page holds: two sides, of which the right one may stay empty.

    Not a dataclass: Gradio would make a dictionary of it.
    """

    def __init__(self) -> None:
        self.left, self.right = Talk(), Talk()
        self.looked: tuple[Any, Any] | None = None  # the last answer that was looked at, and what was found

    def clear(self) -> None:
        """In place: what is still being written has nowhere to be shown any more."""
        self.left.exchanges.clear()
        self.right.exchanges.clear()
        self.looked = None
