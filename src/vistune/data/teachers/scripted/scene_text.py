"""Read the symbolic context back: the captions and boxes that a teacher was given as text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from vistune.data.sources.annotated import CROWD_SUFFIX, Box

_BOX_LINE = re.compile(r"^(?P<name>[^:\[\]]+): \[(?P<corners>[\d.]+(?:, [\d.]+){3})\]$")


@dataclass(frozen=True)
class SceneText:
    """What the teacher knows of a picture."""

    captions: tuple[str, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def parse(cls, context: str) -> SceneText:
        """The boxes are the last block, where every line of it is one."""
        blocks = [block.splitlines() for block in context.split("\n\n") if block]
        boxes = [_parse_box(line) for line in blocks[-1]] if blocks else []
        found = tuple(box for box in boxes if box)
        if not found or len(found) < len(boxes):
            return cls(tuple(line for block in blocks for line in block), ())
        return cls(tuple(line for block in blocks[:-1] for line in block), found)

    @cached_property
    def crowds(self) -> frozenset[str]:
        """Categories of which a crowd is there, too many to be told apart."""
        return frozenset(box.category for box in self.boxes if box.crowd)

    @cached_property
    def counts(self) -> Counter[str]:
        """How many of each category there are, in alphabetical order; crowds are not counted."""
        names = (box.category for box in self.boxes if box.category not in self.crowds)
        return Counter(dict(sorted(Counter(names).items())))

    @cached_property
    def single(self) -> tuple[Box, ...]:
        """Boxes whose category occurs once: "the dog" is clear."""
        return tuple(box for box in self.boxes if self.counts[box.category] == 1)

    def words(self) -> set[str]:
        """Every word of the captions, in lower case."""
        return set(re.findall(r"[a-z]+", " ".join(self.captions).lower()))


def _parse_box(line: str) -> Box | None:
    if not (match := _BOX_LINE.match(line)):
        return None
    corners = tuple(float(value) for value in match["corners"].split(", "))
    name = match["name"].removesuffix(CROWD_SUFFIX)
    return Box(name, corners, crowd=name != match["name"])  # type: ignore[arg-type]
