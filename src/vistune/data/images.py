"""Pictures: safe decoding, and CLIP's preprocessing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_MAX_PIXELS = 100_000_000  # more than this in one picture is an attack or a mistake


@dataclass(frozen=True)
class Flaw:
    """Why a picture cannot be used."""

    reason: str
    detail: str = ""


class UnusableImageError(Exception):
    """A picture that cannot be decoded; ``flaw`` says why."""

    def __init__(self, path: Path, flaw: Flaw) -> None:
        super().__init__(f"{path}: {flaw.reason}{f' ({flaw.detail})' if flaw.detail else ''}")
        self.flaw = flaw


def open_image(path: Path) -> Image.Image:
    """Decode a picture to upright RGB.

    Raises:
        UnusableImageError: missing, truncated, too large, or not a picture.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise UnusableImageError(path, Flaw("picture too large", f"{picture.width}x{picture.height}"))
            return ImageOps.exif_transpose(picture).convert("RGB")
    except FileNotFoundError as error:
        raise UnusableImageError(path, Flaw("picture is missing")) from error
    except UnidentifiedImageError as error:
        raise UnusableImageError(path, Flaw("not a picture")) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableImageError(path, Flaw("broken picture", str(error))) from error


def find_flaw(path: Path) -> Flaw | None:
    """Why the picture cannot be used, or None where it can."""
    try:
        open_image(path)
    except UnusableImageError as error:
        return error.flaw
    return None


def flaw_of_annotated(folder: Path, file: str, size: tuple[int, int] | None = None) -> Flaw | None:
    """Why a picture that annotations name cannot be used, or None where it can.

    Args:
        size: the (width, height) that the annotations say it has.
    """
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        return Flaw("picture outside the folder of images")
    try:
        found = open_image(path).size
    except UnusableImageError as error:
        return error.flaw
    if size and found != size:
        detail = f"{found[0]}x{found[1]}, annotated {size[0]}x{size[1]}"
        return Flaw("picture is not of the annotated size", detail)
    return None


@dataclass(frozen=True)
class Preprocessor:
    """CLIP's preprocessing: shortest side to ``size`` (bicubic), centre crop, scale, normalise.

    Written to and read from ``preprocessor_config.json``, so that transformers does the same.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """``picture`` (any size) -> float32 pixels [3, size, size]."""
        return self.normalise(np.asarray(self.square(picture)))

    def normalise(self, square: np.ndarray) -> np.ndarray:
        """8-bit [size, size, 3] -> float32 [3, size, size]."""
        pixels = square.astype(np.float32) / np.float32(255.0)
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        scaled = (pixels - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def square(self, picture: Image.Image) -> Image.Image:
        """Resize the shortest side to ``size`` and crop the centre."""
        width, height = picture.size
        long = int(self.size * max(width, height) / min(width, height))
        resized = (self.size, long) if width <= height else (long, self.size)
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
        left, top = (resized[0] - self.size) // 2, (resized[1] - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))

    def config(self) -> dict[str, Any]:
        """The content of ``preprocessor_config.json``."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": self.size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def save(self, folder: Path) -> None:
        """Write ``folder/preprocessor_config.json``."""
        text = json.dumps(self.config(), indent=2) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Preprocessor:
        """The inverse of :meth:`config`."""
        crop = config["crop_size"]
        size = crop["height"] if isinstance(crop, dict) else crop
        return cls(int(size), tuple(config["image_mean"]), tuple(config["image_std"]))
