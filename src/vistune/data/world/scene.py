"""What is where in a scene. Pure layout: no pixels, so that text-only training can use it too."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

CANVAS = 256  # width and height of a scene, in pixels
_SIZES = (50, 104)  # an emoji's side, in pixels
_MIN_GAP = 54  # centres lie at least this far apart, in x or in y: at most a little overlap
_COUNT_WEIGHTS = {1: 12, 2: 22, 3: 26, 4: 24, 5: 16}


@dataclass(frozen=True)
class Category:
    name: str
    supercategory: str
    emoji: tuple[str, ...]


@dataclass(frozen=True)
class Theme:
    name: str
    backgrounds: tuple[str, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Catalogue:
    categories: dict[str, Category]
    themes: tuple[Theme, ...]
    backgrounds: dict[str, str]


@dataclass(frozen=True)
class Placed:
    """An emoji on the canvas. ``x``, ``y``: its centre; ``size``: its side; all in pixels."""

    category: str
    emoji: str
    x: int
    y: int
    size: int
    angle: int  # degrees, counter-clockwise


@dataclass(frozen=True)
class Scene:
    key: str  # names the random stream that drew this scene, and so the scene itself
    background: str
    theme: str | None
    objects: tuple[Placed, ...]


@cache
def catalogue() -> Catalogue:
    """The world's categories, themes and backgrounds, from ``catalogue.yaml``."""
    text = resources.files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    raw: dict[str, Any] = yaml.safe_load(text)
    categories = {name: Category(name, row[0], tuple(row[1:])) for name, row in raw["categories"].items()}
    themes = tuple(
        Theme(row["name"], tuple(row["backgrounds"]), tuple(row["categories"])) for row in raw["themes"]
    )
    return Catalogue(categories, themes, raw["backgrounds"])


def draw_scene(part: str, seed: int, index: int) -> Scene:
    """Draw scene ``index`` of one part of the world.

    ``part`` (``train``, ``val``, ``starter`` ...) and ``seed`` name a random stream of their own, so
    parts never share a scene.
    """
    key = f"{part}/{seed}/{index}"
    rng = random.Random(f"vistune world/{key}")
    theme = rng.choice(catalogue().themes) if rng.random() < 0.6 else None
    backgrounds = theme.backgrounds if theme else tuple(catalogue().backgrounds)
    count = rng.choices(list(_COUNT_WEIGHTS), list(_COUNT_WEIGHTS.values()))[0]
    names = _draw_names(rng, theme, count)
    return Scene(key, rng.choice(backgrounds), theme.name if theme else None, _place(rng, names))


def _draw_names(rng: random.Random, theme: Theme | None, count: int) -> list[str]:
    """Categories of the objects: mostly of the theme, some repeated, now and then a stranger."""
    everything = tuple(catalogue().categories)
    names: list[str] = []
    while len(names) < count:
        if names and rng.random() < 0.25:
            names.append(rng.choice(names))
        elif theme and rng.random() < 0.85:
            names.append(rng.choice(theme.categories))
        else:
            names.append(rng.choice(everything))
    return names


def _place(rng: random.Random, names: list[str]) -> tuple[Placed, ...]:
    """Give each object a size and a place; one that finds no room is drawn again, smaller."""
    placed: list[Placed] = []
    for name in names:
        largest = _SIZES[1] if len(names) < 4 else 84
        for attempt in range(200):
            size = rng.randint(_SIZES[0], max(_SIZES[0], largest - attempt // 4))
            margin = size // 2 + 4
            x, y = rng.randint(margin, CANVAS - margin), rng.randint(margin, CANVAS - margin)
            if all(_apart(x, y, size, other) for other in placed):
                emoji = rng.choice(catalogue().categories[name].emoji)
                placed.append(Placed(name, emoji, x, y, size, rng.randint(-15, 15)))
                break
    return tuple(placed)


def _apart(x: int, y: int, size: int, other: Placed) -> bool:
    gap = max(abs(x - other.x), abs(y - other.y))
    return gap >= max(_MIN_GAP, 0.42 * (size + other.size))
