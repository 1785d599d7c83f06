"""What should never be sent: each kind is refused with a status of its own, and nothing breaks."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx
from PIL import Image

Body = dict[str, Any]
Rubbish = tuple[bytes, int]  # a body, and the status that it deserves

_BOMB_SIDE = 30_000


def draw(rng: random.Random, good: Body) -> tuple[str, Rubbish]:
    """Some kind of rubbish, made of a good request's body, and its name."""
    name = rng.choice(list(KINDS))
    return name, KINDS[name](good)


def refused(response: httpx.Response, status: int) -> bool:
    """Whether it was refused as OpenAI's clients read it."""
    try:
        return response.status_code == status and bool(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return False


def bomb() -> bytes:
    """A PNG of some kilobytes that says, in its header, that it has 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", _BOMB_SIDE, _BOMB_SIDE, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def cut_picture() -> bytes:
    """The first half of a picture's file."""
    whole = BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "PNG")
    return whole.getvalue()[: whole.tell() // 2]


def _changed(**changes: Any) -> Callable[[Body], Rubbish]:
    return lambda good: (json.dumps({**good, **changes}).encode(), 400)


def _pictured(url: str) -> Callable[[Body], Rubbish]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return _changed(messages=[{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}])


def _png(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


KINDS: dict[str, Callable[[Body], Rubbish]] = {
    "malformed JSON": lambda good: (json.dumps(good).encode()[:-9], 400),
    "no object": lambda good: (b'["rubbish"]', 400),
    "unknown model": lambda good: (json.dumps({**good, "model": "nobody"}).encode(), 404),
    "no messages": _changed(messages=[]),
    "the assistant asks": _changed(messages=[{"role": "assistant", "content": "Well?"}]),
    "minus one token": _changed(max_tokens=-1),
    "too long": _changed(messages=[{"role": "user", "content": "why " * 10_000}]),
    "bad base64": _pictured("data:image/png;base64,%%%not base64%%%"),
    "oversized picture": _pictured(_png(bomb())),
    "cut picture": _pictured(_png(cut_picture())),
    "no picture": _pictured(_png(b"GIF? No.")),
    "a local file": _pictured("file:///etc/hostname"),
    "a private address": _pictured("http://127.0.0.1/picture.png"),
}
