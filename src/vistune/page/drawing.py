"""Geometry of boxes over a picture. Colours and words are the template's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

_PICTURE_WIDTH = 320  # units across a picture that boxes are drawn over
_LETTER, _LABEL_HEIGHT = 6.3, 15.0  # of a box's label, in the same units
_GOLDEN_ANGLE = 137.5  # degrees between neighbouring hues; keeps any number of them apart


class NamedBox(Protocol):
    """A named rectangle; ``corners`` (x1, y1, x2, y2) are shares of width and height."""

    @property
    def category(self) -> str: ...
    @property
    def corners(self) -> tuple[float, float, float, float]: ...
    @property
    def area(self) -> float: ...


@dataclass(frozen=True)
class DrawnBox:
    """A box and its label over a picture that is 320 units wide; ``hue`` in degrees."""

    category: str
    hue: float
    x: float
    y: float
    width: float
    height: float
    label_x: float
    label_y: float
    label_width: float


@dataclass(frozen=True)
class Overlay:
    """What is drawn over one picture; ``height`` in the same units."""

    width: int
    height: float
    boxes: list[DrawnBox]


def category_hues(names: Iterable[str]) -> dict[str, float]:
    """A hue for each category, in the order of their first appearance."""
    return {name: (25 + number * _GOLDEN_ANGLE) % 360 for number, name in enumerate(dict.fromkeys(names))}


def overlay(boxes: Iterable[NamedBox], aspect: float, hues: Mapping[str, float]) -> Overlay:
    """Boxes to draw over a picture of which height / width is ``aspect``; the largest lies lowest."""
    height = _PICTURE_WIDTH * aspect
    ordered = sorted(boxes, key=lambda box: (-box.area, box.category, box.corners))
    return Overlay(_PICTURE_WIDTH, height, [_draw(box, height, hues[box.category]) for box in ordered])


def _draw(box: NamedBox, height: float, hue: float) -> DrawnBox:
    """The label stands on the box's upper edge, or inside it where there is no room above."""
    x1, y1, x2, y2 = (
        share * size for share, size in zip(box.corners, (_PICTURE_WIDTH, height) * 2, strict=True)
    )
    label_width = len(box.category) * _LETTER + 9
    label_x = max(0.0, min(x1, _PICTURE_WIDTH - label_width))
    label_y = y1 - _LABEL_HEIGHT if y1 >= _LABEL_HEIGHT else y1
    return DrawnBox(box.category, hue, x1, y1, x2 - x1, y2 - y1, label_x, label_y, label_width)
