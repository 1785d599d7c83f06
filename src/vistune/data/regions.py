"""Where in a picture something is, in words: three columns and three rows."""

from __future__ import annotations

# Shares of the width (or height) where the middle third-of-speech begins and ends: what lies between
# two fifths and three fifths is "in the middle" to most people.
_MIDDLE = (0.4, 0.6)

_NAMES = {
    (0, 0): "at the top left",
    (1, 0): "at the top",
    (2, 0): "at the top right",
    (0, 1): "on the left",
    (1, 1): "in the center",
    (2, 1): "on the right",
    (0, 2): "at the bottom left",
    (1, 2): "at the bottom",
    (2, 2): "at the bottom right",
}
REGION_NAMES = tuple(_NAMES.values())


def region_name(x: float, y: float) -> str:
    """The region of a point; ``x`` and ``y`` are shares of width and height, from the top left."""
    return _NAMES[_third(x), _third(y)]


def is_definite(x: float, y: float, margin: float = 0.02) -> bool:
    """Whether the point is far enough from every border between regions to be named without doubt."""
    return all(abs(value - border) > margin for value in (x, y) for border in _MIDDLE)


def _third(value: float) -> int:
    return 0 if value < _MIDDLE[0] else 1 if value <= _MIDDLE[1] else 2
