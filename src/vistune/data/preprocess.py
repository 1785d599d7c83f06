"""The vision encoder's preprocessing: pixels as transformers' image processors make them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from vistune.errors import VistuneError

_BAND = 256  # rows of a padded picture that are resized at a time


@dataclass(frozen=True)
class Preprocessor:
    """How a picture becomes an encoder's input: made square, scaled to 0..1, normalised.

    Written to and read from ``preprocessor_config.json``, so that transformers does the same.

    Attributes:
        size: side of the square.
        kind: ``square`` resizes the shortest side and crops the centre (CLIP, DINOv2), ``stretch`` resizes
            both sides (SigLIP), ``pad`` pads to a centred square of the mean colour, then resizes
            (LLaVA-1.5).
        shortest: where ``square`` resizes the shortest side to something else than ``size``.
        resample: Pillow's number of the filter; 3 is bicubic.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    kind: Literal["square", "stretch", "pad"] = "square"
    shortest: int | None = None
    resample: int = 3

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """``picture`` (any size) -> float32 pixels [3, size, size]."""
        return self.normalise(np.asarray(self.square(picture)))

    def padded(self) -> Preprocessor:
        """The same encoder's, but nothing of a picture is cut off or distorted."""
        return replace(self, kind="pad", shortest=None)

    def normalise(self, square: np.ndarray) -> np.ndarray:
        """8-bit [size, size, 3] -> float32 [3, size, size]."""
        pixels = square.astype(np.float32) / np.float32(255.0)
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        scaled = (pixels - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def square(self, picture: Image.Image) -> Image.Image:
        """RGB of any size -> RGB of size x size."""
        if self.kind == "stretch":
            return picture.resize((self.size, self.size), self._filter)
        return self._pad(picture) if self.kind == "pad" else self._crop(picture)

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling(self.resample)

    def _crop(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        short = self.shortest or self.size
        long = int(short * max(width, height) / min(width, height))
        resized = (short, long) if width <= height else (long, short)
        left, top = (resized[0] - self.size) // 2, (resized[1] - self.size) // 2
        picture = picture.resize(resized, self._filter)
        return picture.crop((left, top, left + self.size, top + self.size))

    def _pad(self, picture: Image.Image) -> Image.Image:
        """Rows are resized before columns, as Pillow does it, so that the whole square is never in memory."""
        width, height = picture.size
        side = max(width, height)
        left, above = (side - width) // 2, (side - height) // 2
        colour = tuple(int(255 * mean) for mean in self.mean)
        columns = Image.new("RGB", (self.size, side), colour)
        for top in range(0, height, _BAND):
            rows = min(_BAND, height - top)
            band = Image.new("RGB", (side, rows), colour)
            band.paste(picture.crop((0, top, width, top + rows)), (left, 0))
            columns.paste(band.resize((self.size, rows), self._filter), (0, above + top))
        return columns.resize((self.size, self.size), self._filter)

    def config(self) -> dict[str, Any]:
        """The content of ``preprocessor_config.json``."""
        square = {"height": self.size, "width": self.size}
        kinds: dict[str, dict[str, Any]] = {
            "square": {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True},
            "stretch": {"image_processor_type": "SiglipImageProcessor", "size": square},
            "pad": {"image_processor_type": "LlavaImageProcessor", "do_center_crop": True, "do_pad": True},
        }
        config = {
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            **kinds[self.kind],
        }
        if self.kind != "stretch":
            config |= {"size": {"shortest_edge": self.shortest or self.size}, "crop_size": square}
        return config

    def save(self, folder: Path) -> None:
        """Write ``folder/preprocessor_config.json``."""
        text = json.dumps(self.config(), indent=2) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Preprocessor:
        """Read the content of an encoder's or a checkpoint's ``preprocessor_config.json``.

        Raises:
            VistuneError: it describes what is done here otherwise, or not at all.
        """
        return cls(**_read(config))


def _read(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a :class:`Preprocessor`."""
    for key in ("image_mean", "image_std", "resample"):
        _require(config.get(key) is not None, f"`{key}` is missing")
    for key in ("do_resize", "do_rescale"):
        _require(config.get(key) is not False, f"`{key}: false` cannot be followed")
    factor = config.get("rescale_factor") or 1 / 255
    _require(abs(factor * 255 - 1) < 1e-6, f"`rescale_factor: {factor}` cannot be followed, only 1/255")
    normal = config.get("do_normalize") is not False
    return {
        "mean": tuple(config["image_mean"]) if normal else (0.0, 0.0, 0.0),
        "std": tuple(config["image_std"]) if normal else (1.0, 1.0, 1.0),
        "resample": int(config["resample"]),
        **_geometry(config),
    }


def _geometry(config: dict[str, Any]) -> dict[str, Any]:
    """``size``, ``kind`` and ``shortest``; keys that are null count as absent."""
    crop, resized = config.get("crop_size"), _side(config.get("size"))
    crops = crop is not None if config.get("do_center_crop") is None else bool(config["do_center_crop"])
    size = _side(crop) if crops else resized
    keeps_shape = not (isinstance(config["size"], dict) and "height" in config["size"])
    if config.get("do_pad"):
        kind = str(config.get("image_processor_type"))
        _require(kind.startswith("Llava"), f"what `do_pad` means to a {kind} is not known")
        _require(size == resized, f"pads, resizes to {resized} and crops {size}")
        return {"size": size, "kind": "pad"}
    if not crops:
        _require(not (keeps_shape and isinstance(config["size"], dict)), "pictures do not become square")
        return {"size": size, "kind": "stretch"}
    _require(keeps_shape, "pictures are distorted, then cropped")
    _require(resized >= size, f"crops {size} out of {resized}")
    return {"size": size, "shortest": None if resized == size else resized}


def _side(size: Any) -> int:
    """Of a number, ``{height, width}`` or ``{shortest_edge}``."""
    sides = set(size.values()) if isinstance(size, dict) else {size}
    known = not isinstance(size, dict) or size.keys() in ({"height", "width"}, {"shortest_edge"})
    side = sides.pop() if known and len(sides) == 1 else None
    _require(isinstance(side, int) and side > 0, f"expected the side of a square, found {size!r}")
    return int(side)  # type: ignore[arg-type]


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise VistuneError(f"preprocessor_config.json: {what}. Take an encoder with another preprocessing.")
