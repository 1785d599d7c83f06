"""COCO's captions and instances -> annotated images. Files of any size: they are read a record at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.check.pictures import look_at
from vistune.data.images import Flaw
from vistune.data.json_stream import Located, stream_lists
from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.text import excerpt
from vistune.errors import Problem, VistuneError
from vistune.progress import track

_FORMAT = "COCO's format"
LONGEST_CAPTION = 2_000  # characters; COCO's have some 250 at most, and each is paid for in three prompts
_ROUNDING = 1.0  # pixels by which a box may stick out before it counts as wrong

_IMAGE_FIELDS = {"id": int, "file_name": str, "width": int, "height": int}
_CAPTION_FIELDS = {"image_id": int, "caption": str}
_INSTANCE_FIELDS = {"image_id": int, "category_id": int, "bbox": object}
_CATEGORY_FIELDS = {"id": int, "name": str}


@dataclass
class _Tables:
    """What the two files hold, by the image's id."""

    images: dict[int, tuple[str, int, int]] = field(default_factory=dict)  # file, width, height
    captions: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[int, list[Box]] = field(default_factory=lambda: defaultdict(list))
    categories: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)


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
    tables = _Tables()
    if captions is not None:
        _read_captions(captions, tables)
    if instances is not None:
        _read_instances(instances, tables)
    usable = []
    ids = sorted(tables.images)[:limit]
    for image_id in track(ids, "looking at pictures", len(ids)):
        file, width, height = tables.images[image_id]
        texts, boxes = tuple(tables.captions.pop(image_id, ())), tuple(tables.boxes.pop(image_id, ()))
        if not texts and not boxes:
            tables.problems.append(Problem(file, "image without annotation"))
        elif flaw := _flaw_of_picture(images, file, (width, height)):
            tables.problems.append(Problem(file, flaw.reason, flaw.detail))
        else:
            usable.append(AnnotatedImage(str(image_id), (file,), texts, boxes))
    if not usable:
        source = captions or instances
        raise VistuneError(
            f"{source}: no usable image is left of {len(tables.images)}. {_first(tables.problems)}"
        )
    return Annotations(usable, tables.categories, tables.problems)


def _flaw_of_picture(images: Path, file: str, annotated: tuple[int, int]) -> Flaw | None:
    seen = look_at(images, file)
    if seen.size is None or seen.size == annotated:
        return seen.flaw
    found = "{}x{}, annotated {}x{}".format(*seen.size, *annotated)
    return Flaw("picture is not of the annotated size", found)


def _read_captions(path: Path, tables: _Tables) -> None:
    rows: list[tuple[str, int, str]] = []
    for item in stream_lists(path, ("images", "annotations"), _FORMAT):
        if item.list == "images":
            _add_image(path, item, tables)
        else:
            record = _checked(path, item, _CAPTION_FIELDS)
            rows.append((_place(path, item), record["image_id"], " ".join(record["caption"].split())))
    for place, image_id, text in rows:
        if image_id not in tables.images:
            tables.problems.append(Problem(place, "annotation of an unknown image", str(image_id)))
        elif reason := flaw_of_caption(text):
            tables.problems.append(Problem(place, reason, excerpt(text)))
        else:
            tables.captions[image_id].append(text)


def flaw_of_caption(text: str) -> str | None:
    """Why a caption cannot be used, or None."""
    if not text:
        return "empty caption"
    if len(text) > LONGEST_CAPTION:
        return "caption is too long"
    if IMAGE_PLACEHOLDER in text:
        return f"caption contains {IMAGE_PLACEHOLDER}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "caption is not valid Unicode"
    return None


def _read_instances(path: Path, tables: _Tables) -> None:
    """Boxes wait until the end: categories may stand after them."""
    names: dict[int, str] = {}
    rows: list[tuple[int, int, int, Any, bool]] = []
    for item in stream_lists(path, ("images", "annotations", "categories"), _FORMAT):
        if item.list == "images":
            _add_image(path, item, tables)
        elif item.list == "categories":
            category = _checked(path, item, _CATEGORY_FIELDS)
            names[category["id"]] = category["name"]
        else:
            record = _checked(path, item, _INSTANCE_FIELDS)
            crowd = bool(record.get("iscrowd", 0))
            rows.append((item.number, record["image_id"], record["category_id"], record["bbox"], crowd))
    tables.categories = tuple(names.values())
    for number, image_id, category_id, bbox, crowd in rows:
        place = f"{path}: annotations[{number}]"
        if image_id not in tables.images:
            tables.problems.append(Problem(place, "annotation of an unknown image", str(image_id)))
        elif category_id not in names:
            tables.problems.append(Problem(place, "unknown category", str(category_id)))
        else:
            box = _to_box(names[category_id], bbox, crowd, tables.images[image_id])
            if isinstance(box, Box):
                tables.boxes[image_id].append(box)
            else:
                tables.problems.append(Problem(place, box, f"bbox {bbox}"))


def _to_box(category: str, bbox: Any, crowd: bool, image: tuple[str, int, int]) -> Box | str:
    """The normalised box, or the reason why there is none."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_finite, bbox)):
        return "box is not [x, y, w, h]"
    x, y, box_width, box_height = bbox
    _, width, height = image
    if min(x, y) < -_ROUNDING or x + box_width > width + _ROUNDING or y + box_height > height + _ROUNDING:
        return "box outside its picture"
    corners = (x / width, y / height, (x + box_width) / width, (y + box_height) / height)
    return to_box(category, corners, crowd) or "box without area"


def to_box(
    category: str, corners: tuple[float, float, float, float], crowd: bool = False, picture: int = 0
) -> Box | None:
    """A box from corners as shares, clipped to its picture; None where nothing is left."""
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in corners)
    if round(x2, 3) <= round(x1, 3) or round(y2, 3) <= round(y1, 3):
        return None
    return Box(category, (x1, y1, x2, y2), crowd, picture)


def _add_image(path: Path, item: Located, tables: _Tables) -> None:
    record = _checked(path, item, _IMAGE_FIELDS)
    if min(record["width"], record["height"]) <= 0:
        raise VistuneError(f"{_place(path, item)}: width and height must be positive.")
    tables.images[record["id"]] = (record["file_name"], record["width"], record["height"])


def _checked(path: Path, item: Located, fields: dict[str, type]) -> dict[str, Any]:
    """Raise VistuneError where the record lacks a field, or a field is of another type."""
    found = item.value if isinstance(item.value, dict) else {}
    wrong = [name for name, kind in fields.items() if name not in found or not isinstance(found[name], kind)]
    if wrong:
        expected = ", ".join(f"`{name}` ({kind.__name__})" for name, kind in fields.items())
        raise VistuneError(
            f"{_place(path, item)}: expected {expected}; `{wrong[0]}` is {found.get(wrong[0], 'missing')!r}."
        )
    return found


def _place(path: Path, item: Located) -> str:
    return f"{path}: {item.list}[{item.number}]"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _first(problems: list[Problem]) -> str:
    return f"First problem: {problems[0].place}: {problems[0].reason}." if problems else ""
