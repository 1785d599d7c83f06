"""Our requests as OpenAI's API writes them, and its replies as ours."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from vistune.conversation import Picture, Turn
from vistune.serve.engine.engine import BadRequestError, ChatRequest, EngineError, Piece, Sampling, Usage

PNG_PIXELS = 2_000_000  # a photograph's PNG takes about two bytes a pixel; no model here reads more pixels
_JPEG_QUALITY = 95
_ROLES = {"human": "user", "gpt": "assistant"}


def to_body(
    request: ChatRequest, model: str, reserved: Collection[str], stops: Sequence[str] = ()
) -> dict[str, Any]:
    """The body of a streaming ``/v1/chat/completions``.

    Args:
        reserved: texts that the server would read as something else: a picture, a special token.
        stops: end an answer besides those of the request.

    Raises:
        BadRequestError: a turn holds one of them.
    """
    urls = {name: to_data_uri(picture) for name, picture in request.pictures.items()}
    return {
        "model": model,
        "messages": [_message(turn, urls, reserved) for turn in request.conversation.turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.sampling, stops),
    }


def to_data_uri(picture: Image.Image) -> str:
    """The picture's pixels and nothing else of it: no EXIF, no colour profile, no comment.

    Lossless where that is not large; else JPEG of high quality, colours not subsampled.
    """
    plain = picture.convert("RGB")
    plain.info = {}  # Pillow would write some of it
    file = io.BytesIO()
    if plain.width * plain.height <= PNG_PIXELS:
        kind = "png"
        plain.save(file, "PNG", compress_level=3)
    else:
        kind = "jpeg"
        plain.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/{kind};base64,{base64.b64encode(file.getbuffer()).decode('ascii')}"


class Trim:
    """An answer without outer white space, piece by piece: what may be the last of it is held back."""

    def __init__(self) -> None:
        self._begun, self._held = False, ""

    def add(self, text: str) -> str:
        """What is certain now."""
        text = self._held + text if self._begun else text.lstrip()
        certain = text.rstrip()
        self._begun, self._held = self._begun or bool(certain), text[len(certain) :]
        return certain


def read_chunk(chunk: Any) -> Piece:
    """What one chunk of a streamed reply adds; the last one may hold nothing but the usage.

    Raises:
        EngineError: it is none.
    """
    try:
        (choice,) = chunk.choices or (None,)
        text = (choice.delta.content or "") if choice and choice.delta else ""
        reason = choice.finish_reason if choice else None
        usage = _usage(chunk.usage) if chunk.usage else None
    except (AttributeError, TypeError, ValueError) as error:  # the client library does not check what comes
        raise EngineError(f"The engine's answer is not OpenAI's API: {error}") from None
    if not isinstance(text, str):
        raise EngineError(f"The engine's answer is not OpenAI's API: `content` is a {type(text).__name__}")
    return Piece(text, None if not reason else "length" if reason == "length" else "stop", usage)


def _usage(usage: Any) -> Usage:
    """What a server leaves out counts as none."""
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None)
    return Usage(*(int(count or 0) for count in (usage.prompt_tokens, usage.completion_tokens, cached)))


def _message(turn: Turn, urls: Mapping[str, str], reserved: Collection[str]) -> dict[str, Any]:
    for text in reserved:
        if any(text in part for part in turn.content if isinstance(part, str)):
            raise BadRequestError(
                f"A message contains {text!r}, which this model's server does not read as text.", "messages"
            )
    if not any(isinstance(part, Picture) for part in turn.content):
        return {"role": _ROLES[turn.speaker], "content": turn.text}
    return {"role": _ROLES[turn.speaker], "content": list(_parts(turn, urls))}


def _parts(turn: Turn, urls: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A turn's parts in their order; what stands between a picture and words is the server's template's."""
    for part in turn.content:
        if isinstance(part, Picture):
            yield {"type": "image_url", "image_url": {"url": urls[part.file]}}
        elif words := part.strip("\n"):
            yield {"type": "text", "text": words}


def _sampling(sampling: Sampling, stops: Sequence[str]) -> dict[str, Any]:
    """Ours by OpenAI's names; what is not said is left to the server."""
    wanted = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "stop": [*sampling.stop, *stops] or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}
