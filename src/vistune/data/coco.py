"""COCO captions and instances -> annotated images -> the text that a text-only teacher sees.

The symbolic context follows the paper (Sec. 3, Table 1): captions, one a line, a blank line, and boxes as
``category: [x1, y1, x2, y2]`` with corners as shares of width and height.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.images import UnusableImageError, open_image
from vistune.errors import Problem, VistuneError

_ROUNDING = 1.0  # pixels by which a box may stick out before it counts as wrong
CROWD_SUFFIX = " (crowd)"  # marks a box around many things that were not boxed one by one

_IMAGE_FIELDS = {"id": int, "file_name": str, "width": int, "height": int}
_CAPTION_FIELDS = {"image_id": int, "caption": str}
_INSTANCE_FIELDS = {"image_id": int, "category_id": int, "bbox": object}
_CATEGORY_FIELDS = {"id": int, "name": str}


@dataclass(frozen=True)
class Box:
    """A named rectangle.

    Attributes:
        corners: (x1, y1, x2, y2) as shares of width and height, 0 to 1.
        crowd: it stands for many things that were not boxed one by one (COCO's ``iscrowd``).
    """

    category: str
    corners: tuple[float, float, float, float]
    crowd: bool = False

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


@dataclass(frozen=True)
class AnnotatedImage:
    id: str
    file: str  # relative to the folder of images
    captions: tuple[str, ...]
    boxes: tuple[Box, ...]

    def context(self, with_boxes: bool = True) -> str:
        """What a teacher sees of this image: captions, then (after a blank line) boxes."""
        blocks = ["\n".join(self.captions)]
        if with_boxes and self.boxes:
            blocks.append("\n".join(box.line() for box in self.boxes))
        return "\n\n".join(block for block in blocks if block)


@dataclass(frozen=True)
class Annotations:
    images: list[AnnotatedImage]
    categories: tuple[str, ...]
    problems: list[Problem]


def load_coco(
    captions: Path | None, instances: Path | None, images: Path, limit: int | None = None
) -> Annotations:
    """Read COCO's two files into annotated images, in the order of their ids; the first ``limit`` of them.

    Records that cannot be used (a box outside its picture or without area, an annotation of an unknown
    image, a picture that is missing, truncated or no picture) are set aside as problems.

    Raises:
        VistuneError: a file is missing or is not COCO's format, or nothing usable is left.
    """
    if captions is None and instances is None:
        raise VistuneError("Neither captions nor instances were given. Pass --captions, --instances or both.")
    if not images.is_dir():
        raise VistuneError(f"{images}: no such folder of images.")
    problems: list[Problem] = []
    known: dict[int, dict[str, Any]] = {}
    texts: dict[int, list[str]] = defaultdict(list)
    boxes: dict[int, list[Box]] = defaultdict(list)
    categories: tuple[str, ...] = ()
    if captions is not None:
        for image_id, text in _read_captions(captions, known, problems):
            texts[image_id].append(text)
    if instances is not None:
        categories, pairs = _read_instances(instances, known, problems)
        for image_id, box in pairs:
            boxes[image_id].append(box)
    usable = []
    for image_id in sorted(known)[:limit]:
        image = AnnotatedImage(
            str(image_id), known[image_id]["file_name"], tuple(texts[image_id]), tuple(boxes[image_id])
        )
        if problem := _problem_of(image, known[image_id], images):
            problems.append(problem)
        else:
            usable.append(image)
    if not usable:
        source = captions or instances
        raise VistuneError(f"{source}: no usable image is left of {len(known)}. {_first(problems)}")
    return Annotations(usable, categories, problems)


def _problem_of(image: AnnotatedImage, record: dict[str, Any], folder: Path) -> Problem | None:
    """Why an image cannot be used."""
    if not image.captions and not image.boxes:
        return Problem(image.file, "image without annotation")
    path = folder / image.file
    if not path.resolve().is_relative_to(folder.resolve()):
        return Problem(image.file, "picture outside the folder of images")
    try:
        width, height = open_image(path).size
    except UnusableImageError as error:
        return Problem(image.file, error.flaw.reason, error.flaw.detail)
    if (width, height) != (record["width"], record["height"]):
        found, noted = f"{width}x{height}", f"{record['width']}x{record['height']}"
        return Problem(image.file, "picture is not of the annotated size", f"{found}, annotated {noted}")
    return None


def _read_captions(
    path: Path, known: dict[int, dict[str, Any]], problems: list[Problem]
) -> Iterator[tuple[int, str]]:
    content = _read_json(path, ("images", "annotations"))
    known.update(_read_images(path, content))
    for number, record in enumerate(content["annotations"]):
        place = f"{path}: annotations[{number}]"
        _check(record, place, _CAPTION_FIELDS)
        text = " ".join(record["caption"].split())
        if record["image_id"] not in known:
            problems.append(Problem(place, "annotation of an unknown image", str(record["image_id"])))
        elif reason := _flaw_of_text(text):
            problems.append(Problem(place, reason, repr(text)))
        else:
            yield record["image_id"], text


def _flaw_of_text(text: str) -> str | None:
    if not text:
        return "empty caption"
    if IMAGE_PLACEHOLDER in text:
        return f"caption contains {IMAGE_PLACEHOLDER}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "caption is not valid Unicode"
    return None


def _read_instances(
    path: Path, known: dict[int, dict[str, Any]], problems: list[Problem]
) -> tuple[tuple[str, ...], Iterator[tuple[int, Box]]]:
    content = _read_json(path, ("images", "annotations", "categories"))
    known.update(_read_images(path, content))
    for number, category in enumerate(content["categories"]):
        _check(category, f"{path}: categories[{number}]", _CATEGORY_FIELDS)
    names = {category["id"]: category["name"] for category in content["categories"]}

    def boxes() -> Iterator[tuple[int, Box]]:
        for number, record in enumerate(content["annotations"]):
            place = f"{path}: annotations[{number}]"
            _check(record, place, _INSTANCE_FIELDS)
            if record["image_id"] not in known:
                problems.append(Problem(place, "annotation of an unknown image", str(record["image_id"])))
            elif record["category_id"] not in names:
                problems.append(Problem(place, "unknown category", str(record["category_id"])))
            else:
                box = _to_box(names[record["category_id"]], record, known[record["image_id"]])
                if isinstance(box, Box):
                    yield record["image_id"], box
                else:
                    problems.append(Problem(place, box, f"bbox {record['bbox']}"))

    return tuple(names.values()), boxes()


def _to_box(category: str, record: dict[str, Any], image: dict[str, Any]) -> Box | str:
    """The normalised box, or the reason why there is none."""
    bbox = record["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
        return "box is not [x, y, w, h]"
    x, y, box_width, box_height = bbox
    width, height = image["width"], image["height"]
    if min(x, y) < -_ROUNDING or x + box_width > width + _ROUNDING or y + box_height > height + _ROUNDING:
        return "box outside its picture"
    corners = (x / width, y / height, (x + box_width) / width, (y + box_height) / height)
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in corners)
    if round(x2, 3) <= round(x1, 3) or round(y2, 3) <= round(y1, 3):
        return "box without area"
    return Box(category, (x1, y1, x2, y2), crowd=bool(record.get("iscrowd", 0)))


def _read_images(path: Path, content: dict[str, Any]) -> dict[int, dict[str, Any]]:
    images = {}
    for number, record in enumerate(content["images"]):
        place = f"{path}: images[{number}]"
        _check(record, place, _IMAGE_FIELDS)
        if min(record["width"], record["height"]) <= 0:
            raise VistuneError(f"{place}: width and height must be positive.")
        images[record["id"]] = record
    return images


def _check(record: Any, place: str, fields: dict[str, type]) -> None:
    """Raise VistuneError where ``record`` lacks a field, or a field is of another type."""
    found = record if isinstance(record, dict) else {}
    wrong = [name for name, kind in fields.items() if name not in found or not isinstance(found[name], kind)]
    if wrong:
        expected = ", ".join(f"`{name}` ({kind.__name__})" for name, kind in fields.items())
        raise VistuneError(
            f"{place}: expected {expected}; `{wrong[0]}` is {found.get(wrong[0], 'missing')!r}."
        )


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise VistuneError(f"{path}: not UTF-8 text (byte {error.start}).") from error
    except json.JSONDecodeError as error:
        raise VistuneError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})."
        ) from error
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise VistuneError(f"{path}: expected COCO's format; the list `{missing[0]}` is missing.")
    return content


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _first(problems: list[Problem]) -> str:
    return f"First problem: {problems[0].place}: {problems[0].reason}." if problems else ""
