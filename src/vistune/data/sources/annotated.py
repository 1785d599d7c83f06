"""Annotated images, and the text that a text-only teacher sees of one.

The symbolic context follows the paper (Sec. 3, Table 1): captions, one a line, a blank line, and boxes as
``category: [x1, y1, x2, y2]`` with corners as shares of width and height.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from vistune.errors import Problem

CROWD_SUFFIX = " (crowd)"  # marks a box around many things that were not boxed one by one


@dataclass(frozen=True, slots=True)
class Box:
    """A named rectangle.

    Attributes:
        corners: (x1, y1, x2, y2) as shares of width and height, 0 to 1.
        crowd: it stands for many things that were not boxed one by one (COCO's ``iscrowd``).
        picture: of several pictures in one record, the one that it lies in, from 0.
    """

    category: str
    corners: tuple[float, float, float, float]
    crowd: bool = False
    picture: int = 0

    @property
    def center(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.corners
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def area(self) -> float:
        x1, y1, x2, y2 = self.corners
        return (x2 - x1) * (y2 - y1)

    def line(self) -> str:
        """``fire hydrant: [0.326, 0.612, 0.426, 0.72]``: at most three decimals, no trailing zeros."""
        name = self.category + (CROWD_SUFFIX if self.crowd else "")
        return f"{name}: [{', '.join(_short(value) for value in self.corners)}]"


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """What is known of a picture; of several that belong together; or of none, for text alone.

    Attributes:
        files: of the pictures, relative to the folder of images.
    """

    id: str
    files: tuple[str, ...]
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]

    @property
    def file(self) -> str:
        """The picture, where there is one."""
        return self.files[0]

    def context(self, with_boxes: bool = True) -> str:
        """What a teacher sees of this image: captions, then (after a blank line) boxes."""
        blocks = ["\n".join(self.captions)]
        if with_boxes and self.boxes:
            blocks.append("\n".join(self._line(box) for box in self.boxes))
        return "\n\n".join(block for block in blocks if block)

    def _line(self, box: Box) -> str:
        return box.line() if len(self.files) < 2 else f"picture {box.picture + 1}, {box.line()}"


@dataclass(frozen=True, slots=True)
class Annotations:
    images: list[AnnotatedImage]
    categories: tuple[str, ...]
    problems: list[Problem]

    def digest(self) -> str:
        """A hash of all images, their files, captions and boxes."""
        hashed = hashlib.sha256()
        for image in self.images:
            hashed.update("\0".join((image.id, *image.files, image.context(), "\n")).encode())
        return hashed.hexdigest()


def _short(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
