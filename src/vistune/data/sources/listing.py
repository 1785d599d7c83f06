"""Annotated images for those who have no COCO files: one JSON line for each.

    {"image": "dog.jpg", "captions": ["A dog runs."], "boxes": [{"name": "dog", "box": [0.1, 0.2, 0.6, 0.9]}]}

``image`` may be a list of files that belong together, or be left out for text alone. ``boxes`` may be left
out; ``box`` is [x1, y1, x2, y2] as shares of width and height, and ``picture`` (from 1) says in which of
several pictures it lies. ``id`` may be given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from vistune.data.check.pictures import look_at
from vistune.data.records import Record, read_records
from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.sources.coco import flaw_of_caption, to_box
from vistune.data.text import excerpt
from vistune.errors import Problem, VistuneError


def _valid(text: str) -> str:
    text.encode()  # raises ValueError for half a surrogate pair, which no file can hold
    return text


_Text = Annotated[str, AfterValidator(_valid)]


class _Box(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: _Text
    box: list[FiniteFloat] = Field(min_length=4, max_length=4)
    picture: int = Field(1, ge=1)


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    image: _Text | list[_Text] = Field(default_factory=list)
    captions: list[str] = Field(default_factory=list)
    boxes: list[_Box] = Field(default_factory=list)
    id: _Text | int | None = None


def load_listing(path: Path, images: Path, limit: int | None = None) -> Annotations:
    """Read annotated images, in the file's order; the first ``limit`` usable or not.

    Malformed lines, and lines whose pictures cannot be used, are set aside as problems.

    Raises:
        VistuneError: the file cannot be read, or nothing usable is left.
    """
    usable: list[AnnotatedImage] = []
    problems: list[Problem] = []
    categories: dict[str, None] = {}
    ids: set[str] = set()
    for number, record in enumerate(read_records(path)):
        if number == limit:
            break
        found = record if isinstance(record, Problem) else _read_row(record, number, images, problems)
        if isinstance(found, Problem):
            problems.append(found)
        elif found.id in ids:  # samples are told apart by it
            problems.append(Problem(record.place, "id used twice", found.id))
        else:
            ids.add(found.id)
            usable.append(found)
            categories.update(dict.fromkeys(box.category for box in found.boxes))
    if not usable:
        first = f" First problem: {problems[0].place}: {problems[0].reason}." if problems else ""
        raise VistuneError(f"{path}: no usable line.{first}")
    return Annotations(usable, tuple(sorted(categories)), problems)


def _read_row(record: Record, number: int, images: Path, problems: list[Problem]) -> AnnotatedImage | Problem:
    try:
        row = _Row.model_validate(record.value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        return Problem(record.place, "malformed line", f"{where}: {first['msg']}, found {first['input']!r}")
    files = (row.image,) if isinstance(row.image, str) else tuple(row.image)
    for file in files:
        if flaw := look_at(images, file).flaw:
            return Problem(record.place, flaw.reason, f"{file} {flaw.detail}".rstrip())
    captions = _captions(row, record.place, problems)
    boxes = _boxes(row, max(1, len(files)), record.place, problems)
    if not captions and not boxes:
        return Problem(record.place, "image without annotation", ", ".join(files))
    return AnnotatedImage(str(number if row.id is None else row.id), files, captions, boxes)


def _captions(row: _Row, place: str, problems: list[Problem]) -> tuple[str, ...]:
    kept = []
    for text in (" ".join(caption.split()) for caption in row.captions):
        if reason := flaw_of_caption(text):
            problems.append(Problem(place, reason, excerpt(text)))
        else:
            kept.append(text)
    return tuple(kept)


def _boxes(row: _Row, pictures: int, place: str, problems: list[Problem]) -> tuple[Box, ...]:
    kept = []
    for item in row.boxes:
        corners: Any = tuple(item.box)
        name = " ".join(item.name.split())  # it has to stand in one line
        if item.picture > pictures:
            problems.append(Problem(place, "box in a picture that is not there", f"picture {item.picture}"))
        elif min(corners) < 0 or max(corners) > 1:
            problems.append(Problem(place, "box outside its picture", f"{item.name} {item.box}"))
        elif not name:
            problems.append(Problem(place, "box without a name", f"{item.box}"))
        elif (box := to_box(name, corners, picture=item.picture - 1)) is None:
            problems.append(Problem(place, "box without area", f"{item.name} {item.box}"))
        else:
            kept.append(box)
    return tuple(kept)
