"""What a judge knows of each picture: captions, and boxes where there are some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.data.sources.annotated import AnnotatedImage, Box
from vistune.errors import Problem, VistuneError
from vistune.evaluate.judge.rows import read_rows


@dataclass(frozen=True)
class Contexts:
    """The words for each picture, by its file, and the lines that could not be used."""

    by_image: Mapping[str, str]
    problems: list[Problem]


def read_contexts(path: Path) -> Contexts:
    """Read JSON lines of ``image`` and ``caption``, or of ``image``, ``captions`` and ``instances``.

    The text is that of data generation: captions, a blank line, ``category: [x1, y1, x2, y2]``.

    Raises:
        VistuneError: the file cannot be read, or holds no context.
    """
    problems: list[Problem] = []
    found: dict[str, str] = {}
    torn: set[str] = set()
    for place, row in read_rows(path, problems):
        try:
            image, text = _context(row)
        except (KeyError, TypeError, ValueError) as error:
            problems.append(Problem(place, "not a picture's context", f"{type(error).__name__}: {error}"))
            continue
        if found.setdefault(image, text) != text:
            torn.add(image)
            problems.append(Problem(place, "two different contexts of one picture; neither used", image))
    known = {image: text for image, text in found.items() if image not in torn}
    if not known:
        raise VistuneError(
            f"{path}: holds no context. Expected JSON lines of `image` and `caption`, "
            "or of `image`, `captions` and `instances`."
        )
    return Contexts(known, problems)


def _context(row: dict[str, Any]) -> tuple[str, str]:
    captions = row["captions"] if "captions" in row else [row["caption"]]
    instances = row.get("instances") or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"captions: expected texts, found {captions!r}")
    if not isinstance(row["image"], str) or not isinstance(instances, list):
        raise ValueError("expected `image` as text and `instances` as a list")
    boxes = tuple(Box(str(item["category"]), _corners(item["bbox"])) for item in instances)
    text = AnnotatedImage("", (row["image"],), tuple(c.strip() for c in captions), boxes).context()
    if not text:
        raise ValueError("no words")
    return row["image"], text


def _corners(values: Any) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in values)
    if not (0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1):
        raise ValueError(f"bbox {values}: expected x1, y1, x2, y2 as shares of width and height")
    return x1, y1, x2, y2
