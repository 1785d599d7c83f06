"""Pictures, decoded safely."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vistune.data.preprocess import Preprocessor as Preprocessor

_MAX_PIXELS = 100_000_000  # more than this in one picture is an attack or a mistake
_MAX_RATIO = 400  # of the sides; resized to an encoder's height, a longer strip would fill the memory
_DECODER_ERRORS = (  # what Pillow's decoders are known to raise on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
)


@dataclass(frozen=True)
class Flaw:
    """Why a picture cannot be used."""

    reason: str
    detail: str = ""


class UnusableImageError(Exception):
    """A picture that cannot be decoded; ``flaw`` says why, ``name`` is how it was asked for."""

    def __init__(self, name: Path | str, flaw: Flaw) -> None:
        super().__init__(f"{name}: {flaw.reason}{f' ({flaw.detail})' if flaw.detail else ''}")
        self.name, self.flaw = str(name), flaw


def outside(file: str) -> Flaw | None:
    """Whether a file's name leads out of the folder of images, or is none.

    The name alone decides: data come from strangers, while links in the folder are its owner's.
    """
    if not file.strip() or "\0" in file:
        return Flaw("`image` is not a file name", repr(file))
    if os.path.isabs(file) or os.pardir in re.split(r"[/\\]", file):
        return Flaw("picture outside the folder of images", repr(file))
    return None


def open_image(path: Path) -> Image.Image:
    """Decode a picture to upright RGB; of a transparent one, the colours beneath the transparency.

    Raises:
        UnusableImageError: missing, truncated, too large, or not a picture.
    """
    return decode(path, str(path))


def decode(source: Path | BinaryIO, name: str) -> Image.Image:
    """As :func:`open_image`, from a path or an open file; ``name`` is for messages."""
    with _opened(source, name) as picture:
        return _to_rgb(ImageOps.exif_transpose(picture), name)


def look(source: Path | BinaryIO, name: str) -> Flaw | None:
    """What a picture's header says against it; its pixels are not decoded."""
    try:
        with _opened(source, name):
            return None
    except UnusableImageError as error:
        return error.flaw


@contextmanager
def _opened(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """A picture of a bearable size; what goes wrong in the ``with`` block counts as the picture's fault."""
    try:
        with Image.open(source) as picture:
            size = f"{picture.width}x{picture.height}"
            if picture.width * picture.height > _MAX_PIXELS:
                raise UnusableImageError(name, Flaw("picture too large", size))
            if max(picture.size) > _MAX_RATIO * min(picture.size):
                raise UnusableImageError(name, Flaw("picture too narrow", size))
            yield picture
    except FileNotFoundError as error:
        raise UnusableImageError(name, Flaw("picture is missing")) from error
    except UnidentifiedImageError as error:
        raise UnusableImageError(name, Flaw("not a picture")) from error
    except Image.DecompressionBombError as error:
        raise UnusableImageError(name, Flaw("picture too large", str(error))) from error
    except _DECODER_ERRORS as error:
        raise UnusableImageError(name, Flaw("broken picture", str(error))) from error


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.mode == "F":
        raise UnusableImageError(name, Flaw("picture of floating-point values"))
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(picture).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")
