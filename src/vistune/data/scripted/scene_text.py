"""Read the symbolic context back: the captions and boxes that a teacher was given as text."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from vistune.data.coco import Box

_BOX_LINE = re.compile(r"^(?P<name>[^:\[\]]+): \[(?P<corners>[\d.]+(?:, [\d.]+){3})\]$")


@dataclass(frozen=True)
class SceneText:
    """What the teacher knows of a picture."""

    captions: tuple[str, ...]
    boxes: tuple[Box, ...]

    @classmethod
    def parse(cls, context: str) -> SceneText:
        captions, boxes = [], []
        for line in filter(None, context.splitlines()):
            if match := _BOX_LINE.match(line):
                corners = tuple(float(value) for value in match["corners"].split(", "))
                boxes.append(Box(match["name"], corners))  # type: ignore[arg-type]
            else:
                captions.append(line)
        return cls(tuple(captions), tuple(boxes))

    @cached_property
    def counts(self) -> Counter[str]:
        """How many of each category there are, in alphabetical order."""
        return Counter(dict(sorted(Counter(box.category for box in self.boxes).items())))

    @cached_property
    def single(self) -> tuple[Box, ...]:
        """Boxes whose category occurs once: "the dog" is clear."""
        return tuple(box for box in self.boxes if self.counts[box.category] == 1)

    def words(self) -> set[str]:
        """Every word of the captions, in lower case."""
        return set(re.findall(r"[a-z]+", " ".join(self.captions).lower()))
