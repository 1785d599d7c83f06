"""The world's language, for the LLM: text analogs of seeing, and dialogues about them.

Where a picture would stand, the LLM reads the scene as text: a map of words, one for each cell of a grid
in reading order, or a list of facts. It learns to answer from what it reads. It never sees a picture.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from vistune.conversation import Conversation, gpt, human
from vistune.data.coco import AnnotatedImage, Box
from vistune.data.generate import question_list
from vistune.data.reply import parse_pairs
from vistune.data.scripted import OfflineTeacher
from vistune.data.teacher import TeacherRequest
from vistune.data.world.captions import captions
from vistune.data.world.render import Drawn
from vistune.data.world.scene import CANVAS, Placed, Scene, catalogue, draw_scene

PART = "starter-text"  # this world's part that nothing else draws from
GRID = 5  # cells a side: as many as the starter encoder has patches


def dialogues(seed: int, start: int, count: int) -> Iterator[Conversation]:
    """Text-only dialogues about scenes ``start`` to ``start + count``, one a scene."""
    teacher = OfflineTeacher(list(catalogue().categories))
    for index in range(start, start + count):
        scene = draw_scene(PART, seed, index)
        rng = random.Random(f"dialogue/{scene.key}")
        drawn = [_outline(placed) for placed in scene.objects]
        annotated = AnnotatedImage(
            scene.key, "", tuple(captions(scene, drawn)), tuple(_box(item) for item in drawn)
        )
        seen = _facts(annotated) if rng.random() < 0.1 else text_map(scene)
        yield _dialogue(annotated, seen, teacher, rng)


def text_map(scene: Scene) -> str:
    """The scene as ``GRID`` x ``GRID`` words: what stands in a cell, or the background there."""
    cells = [scene.background] * GRID**2
    for placed in scene.objects:
        column, row = placed.x * GRID // CANVAS, placed.y * GRID // CANVAS
        cells[row * GRID + column] = placed.category
    return " " + " ".join(cells)


def _facts(annotated: AnnotatedImage) -> str:
    return " " + annotated.captions[1]


def _dialogue(
    annotated: AnnotatedImage, seen: str, teacher: OfflineTeacher, rng: random.Random
) -> Conversation:
    pairs = _pairs(annotated, teacher, rng)
    turns = []
    for number, (question, answer) in enumerate(pairs):
        turns += [human(question if number else f"{seen}\n{question}"), gpt(answer)]
    return Conversation(annotated.id, tuple(turns))


def _pairs(annotated: AnnotatedImage, teacher: OfflineTeacher, rng: random.Random) -> list[tuple[str, str]]:
    """Short questions, then sometimes one long answer: a caption, a description or an argument."""
    context = annotated.context()
    long: list[tuple[str, str]] = []
    draw = rng.random()
    if draw < 0.3:
        long = [(rng.choice(question_list("brief")), rng.choice(annotated.captions))]
    elif draw < 0.4:
        reply = teacher.reply(TeacherRequest("detail", context, annotated.id))
        long = [(rng.choice(question_list("detail")), reply)]
    elif draw < 0.5:
        long = parse_pairs(teacher.reply(TeacherRequest("reasoning", context, annotated.id)))
    short = parse_pairs(teacher.reply(TeacherRequest("conversation", context, annotated.id)))
    return long + short if rng.random() < 0.5 else short + long


def _outline(placed: Placed) -> Drawn:
    """A placed object's box, without painting it."""
    x, y, size = placed.x, placed.y, placed.size
    return Drawn(placed.category, (x - size // 2, y - size // 2, size, size), size * size)


def _box(item: Drawn) -> Box:
    x, y, width, height = item.bbox
    corners = (x / CANVAS, y / CANVAS, (x + width) / CANVAS, (y + height) / CANVAS)
    return Box(item.category, tuple(round(value, 3) for value in corners))  # type: ignore[arg-type]
