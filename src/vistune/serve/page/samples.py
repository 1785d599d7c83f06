"""Example pictures with questions: scenes of the sample world, painted when the page is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# The scene's number in its own part of the world, which no model was trained on, and a question about it
_QUESTIONS = (
    (14, "What is in the picture?"),
    (22, "How many eggs are there?"),
    (9, "Where is the boat?"),
    (27, "Describe the picture."),
)


@dataclass(frozen=True)
class Sample:
    file: str
    question: str


def paint_samples(folder: Path) -> list[Sample]:
    """Paint the examples into ``folder``."""
    from vistune.data.world.render import render
    from vistune.data.world.scene import draw_scene

    samples = []
    for number, question in _QUESTIONS:
        picture, _ = render(draw_scene("page", 0, number))
        file = folder / f"scene-{number}.png"
        picture.save(file)
        samples.append(Sample(str(file), question))
    return samples
