"""A request's pictures: read, held against the limits, decoded."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from PIL import Image, UnidentifiedImageError

from vistune.data.images import UnusableImageError, decode
from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards.formats import MEDIA_TYPES, NAMES, OPENED, media_type
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.remote import fetch_remote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_MOST_HEAD = 256  # characters of a data: URI before its comma
_T = TypeVar("_T")

# Two pictures are decoded at once, whoever sent them: a decoder takes a core, and memory for its pixels
_decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode-picture")


@dataclass(frozen=True)
class _Encoded:
    """A picture's file; ``kind``: the media type that it must have, None for any."""

    data: bytes
    kind: str | None = None


async def fetch_picture(url: str, limits: Limits) -> Image.Image:
    """The picture at a ``data:`` URI or, where the limits allow them, an ``https:`` address; upright RGB.

    Of an animated picture, the first frame. What its file tells besides (where, when, by whom) is left
    behind.

    Raises:
        BadRequestError: with ``param`` "messages" and words that say what is wrong with it.
    """
    encoded = await _read(url, limits)
    return await _in_thread(_decode, encoded, limits, limits.pixels)


async def fetch_pictures(urls: Sequence[str], limits: Limits) -> list[Image.Image]:
    """All of one request's pictures, in order; limited in number and in pixels together.

    An address that comes twice is fetched once and gives one picture twice.

    Raises:
        BadRequestError: as :func:`fetch_picture`.
    """
    if len(urls) > limits.pictures:
        raise _refusal(f"The request has {len(urls)} pictures; {limits.pictures} are allowed.")
    once = list(dict.fromkeys(urls))
    reads = [asyncio.ensure_future(_read(url, limits)) for url in once]
    try:
        files = await asyncio.gather(*reads)
    finally:
        for read in reads:
            read.cancel()
    pictures: dict[str, Image.Image] = {}
    left = limits.pixels
    for url, file in zip(once, files, strict=True):
        pictures[url] = await _in_thread(_decode, file, limits, left)
        left -= pictures[url].width * pictures[url].height
    return [pictures[url] for url in urls]


async def _read(url: str, limits: Limits) -> _Encoded:
    named = _SCHEME.match(url)
    scheme = named.group(1).lower() if named else ""
    if scheme == "data":
        return await _in_thread(_from_data, url, limits)
    if not limits.remote:
        what = "Addresses of remote pictures are" if scheme in ("http", "https") else "This address is"
        raise _refusal(f"{what} not read. Send the picture itself, as data:image/png;base64,...")
    if scheme != "https":
        raise _refusal("This address is not read. Send the picture as a data: URI, or an https: address.")
    return _Encoded(await fetch_remote(url, limits))


def _from_data(uri: str, limits: Limits) -> _Encoded:
    """Parse ``data:<media type>[;<parameter>...];base64,<base64>`` (RFC 2397), strictly."""
    head, comma, text = uri[len("data:") :].partition(",")
    kind, *parameters = head.split(";")
    if not comma or len(head) > _MOST_HEAD or not parameters or parameters[-1].strip().lower() != "base64":
        raise _refusal("A picture's data: URI must read data:image/png;base64,...")
    declared = media_type(kind)
    if declared is None:
        raise _refusal(f"A picture's data: URI must name the media type of a {NAMES} picture.")
    try:
        data = _from_base64(text, limits)
    except ValueError as error:
        raise _refusal(
            "A picture's data: URI is not base64: it takes letters, digits, + and /, without line breaks, "
            "filled up with = to a multiple of four."
        ) from error
    if data is None or len(data) > limits.picture_bytes:
        raise _refusal(f"A picture's file is larger than the {limits.picture_bytes} bytes allowed.")
    return _Encoded(data, declared)


def _from_base64(text: str, limits: Limits) -> bytes | None:
    """What base64, percent-encoded or not, stands for; None if that is longer than a picture may be."""
    encoded = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
    if len(encoded) > 4 * -(-limits.picture_bytes // 3):
        return None
    return base64.b64decode(encoded, validate=True)


def _decode(file: _Encoded, limits: Limits, left: int) -> Image.Image:
    """Upright RGB of a picture of no more than ``left`` pixels."""
    _check_header(file, limits, left)
    try:
        picture = decode(BytesIO(file.data), "picture")
    except UnusableImageError as error:
        raise _refusal(f"A picture cannot be used: {error.flaw.reason}.") from error
    except Exception as error:  # decoders raise anything on bytes that were made to break them
        raise _refusal("A picture cannot be used: broken picture.") from error
    picture.info = {}
    return picture


def _check_header(file: _Encoded, limits: Limits, left: int) -> None:
    """Format and size, before a pixel is decoded."""
    try:
        with Image.open(BytesIO(file.data), formats=OPENED) as picture:
            name, (width, height) = picture.format or "", picture.size
    except UnidentifiedImageError as error:
        raise _refusal(f"A picture cannot be read. It must be {NAMES}, and not cut short.") from error
    except Image.DecompressionBombError as error:
        raise _refusal(_too_many_pixels("A picture has", limits)) from error
    except Exception as error:  # as above
        raise _refusal("A picture cannot be used: broken picture.") from error
    kind = MEDIA_TYPES[name]
    if width * height > limits.pixels:
        raise _refusal(_too_many_pixels(f"A picture has {width}x{height} pixels,", limits))
    if width * height > left:
        raise _refusal(_too_many_pixels("The pictures of the request have, together,", limits))
    if file.kind not in (None, kind):
        raise _refusal(f"A picture's data: URI says {file.kind}, but the picture is {kind}.")


def _too_many_pixels(have: str, limits: Limits) -> str:
    return f"{have} more than the {limits.pixels} pixels allowed."


async def _in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    return await asyncio.get_running_loop().run_in_executor(_decoders, work, *arguments)


def _refusal(message: str) -> BadRequestError:
    return BadRequestError(message, param="messages")
