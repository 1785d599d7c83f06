"""Attention over a picture: a map -> a small see-through PNG."""

from __future__ import annotations

import base64
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

_LEVELS = 48
_STRONGEST = 0.75  # opacity where a map is highest; where it is 0, the picture shows alone


@cache
def _palette() -> tuple[list[int], bytes]:
    """Colours and opacities of the levels: cividis, which looks alike to people of all colour vision."""
    from matplotlib import colormaps

    ramp = np.linspace(0.0, 1.0, _LEVELS)
    colours = (255 * colormaps["cividis"](ramp)[:, :3]).round().astype(np.uint8)
    opacity = (255 * _STRONGEST * ramp).round().astype(np.uint8)
    return colours.flatten().tolist(), opacity.tobytes()


def gradient() -> str:
    """The colours as a CSS gradient, low to high."""
    colours, _ = _palette()
    picked = [colours[3 * level : 3 * level + 3] for level in np.linspace(0, _LEVELS - 1, 9).astype(int)]
    return "linear-gradient(90deg, " + ", ".join("rgb({}, {}, {})".format(*colour) for colour in picked) + ")"


def heat(map_: np.ndarray, low: float, high: float) -> str:
    """[rows, columns] -> a PNG of one pixel for each patch, as the value of ``src``."""
    span = high - low
    share = (map_ - low) / span if span > 0 else np.zeros_like(map_)
    levels = (share.clip(0.0, 1.0) * (_LEVELS - 1)).round().astype(np.uint8)
    picture = Image.fromarray(levels)
    colours, opacity = _palette()
    picture.putpalette(colours)
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=opacity)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
