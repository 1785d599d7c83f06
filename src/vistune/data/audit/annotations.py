"""What the annotations say is in each picture, held compactly: COCO's 860,000 boxes take some 40 MB."""

from __future__ import annotations

import math
import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vistune.data.json_stream import Located, stream_lists
from vistune.data.sources.annotated import Box
from vistune.data.sources.coco import to_box
from vistune.errors import Problem, VistuneError

_FORMAT = "COCO's format"
_SPLIT_PREFIX = re.compile(r"^COCO_[a-z]+20\d\d_")  # of file names in COCO's 2014 sets


def join_key(file: str) -> str:
    """What a record's picture and an annotated one have in common.

    ``coco/train2017/000000033471.jpg``, ``COCO_train2014_000000033471.jpg`` and ``000000033471.jpg`` are one.
    """
    return _SPLIT_PREFIX.sub("", PurePosixPath(file.replace("\\", "/")).name)


@dataclass
class _Rows:
    """Annotations in the file's order; images and categories may come after them."""

    images: array[int] = field(default_factory=lambda: array("q"))
    categories: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("f"))  # x, y, width, height, in pixels
    crowds: bytearray = field(default_factory=bytearray)


class Annotated:
    """Which objects are in which picture.

    Args:
        instances: a COCO file with images, annotations and categories.

    Raises:
        VistuneError: the file cannot be read, is not COCO's format, or two pictures have one name.
    """

    def __init__(self, instances: Path) -> None:
        self.problems: list[Problem] = []
        self._sizes: dict[int, tuple[int, int]] = {}  # image id -> width, height
        self._ids: dict[str, int] = {}  # join key -> image id
        self._names: dict[int, str] = {}  # category id -> name
        self._told: dict[int, set[str]] = defaultdict(set)  # image id -> what captions name
        rows = _Rows()
        for item in stream_lists(instances, ("images", "annotations", "categories"), _FORMAT):
            self._read(instances, item, rows)
        self.categories = tuple(self._names.values())
        image_ids = np.frombuffer(rows.images, dtype=np.int64)
        self._order = np.argsort(image_ids, kind="stable")
        self._image_ids = image_ids[self._order]
        self._rows = rows

    def add_captions(self, captions: Path, named: Callable[[str], Iterable[str]]) -> None:
        """Objects that captions name are in the picture, too, as CHAIR has it.

        Args:
            named: the categories that a text names.
        """
        for item in stream_lists(captions, ("annotations",), _FORMAT):
            value = item.value if isinstance(item.value, dict) else {}
            image_id, text = value.get("image_id"), value.get("caption")
            if image_id in self._sizes and isinstance(text, str):
                self._told[image_id].update(named(text))
            else:
                self._problem(captions, item, "caption without a known image or text")

    def knows(self, file: str) -> bool:
        return join_key(file) in self._ids

    def present(self, files: Sequence[str]) -> set[str]:
        """Categories that are in any of the pictures."""
        found: set[str] = set()
        for file in files:
            image_id = self._ids[join_key(file)]
            found.update(self._told.get(image_id, ()))
            found.update(self._names[self._rows.categories[row]] for row in self._rows_of(image_id))
        return found

    def boxes(self, file: str) -> list[Box]:
        """Boxes of one picture, those that have an area inside it."""
        image_id = self._ids[join_key(file)]
        width, height = self._sizes[image_id]
        found = []
        for row in self._rows_of(image_id):
            x, y, box_width, box_height = self._rows.boxes[4 * row : 4 * row + 4]
            corners = (x / width, y / height, (x + box_width) / width, (y + box_height) / height)
            name = self._names[self._rows.categories[row]]
            if math.isfinite(sum(corners)) and (box := to_box(name, corners, bool(self._rows.crowds[row]))):
                found.append(box)
        return found

    def _rows_of(self, image_id: int) -> list[int]:
        first, last = np.searchsorted(self._image_ids, [image_id, image_id + 1])
        rows = self._order[first:last].tolist()
        return [row for row in rows if self._rows.categories[row] in self._names]

    def _read(self, path: Path, item: Located, rows: _Rows) -> None:
        value: dict[str, Any] = item.value if isinstance(item.value, dict) else {}
        try:
            if item.list == "images":
                self._add_image(path, item, value)
            elif item.list == "categories":
                self._names[int(value["id"])] = str(value["name"])
            else:
                image, category = int(value["image_id"]), int(value["category_id"])
                x, y, width, height = (float(number) for number in value.get("bbox") or [math.nan] * 4)
                rows.images.append(image)
                rows.categories.append(category)
                rows.boxes.extend((x, y, width, height))
                rows.crowds.append(bool(value.get("iscrowd", 0)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if item.list != "annotations":
                raise VistuneError(
                    f"{path}: line {item.line}: {item.list}[{item.number}] is not {_FORMAT} ({error!r})."
                ) from error
            self._problem(path, item, "malformed annotation")

    def _add_image(self, path: Path, item: Located, value: dict[str, Any]) -> None:
        image_id, file = int(value["id"]), str(value["file_name"])
        width, height = int(value["width"]), int(value["height"])
        if min(width, height) <= 0:
            raise ValueError("width and height must be positive")
        if self._ids.setdefault(join_key(file), image_id) != image_id:
            raise VistuneError(
                f"{path}: line {item.line}: another picture has the name {join_key(file)!r}, too; "
                "records could not be told apart. Give the pictures different names."
            )
        self._sizes[image_id] = (width, height)

    def _problem(self, path: Path, item: Located, reason: str) -> None:
        self.problems.append(Problem(f"{path}: line {item.line}: {item.list}[{item.number}]", reason))
