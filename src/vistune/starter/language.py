"""The world's language, for the LLM: text analogs of seeing, and dialogues about them.

Where a picture would stand, the LLM reads the scene as words: a map of a grid of cells, where each cell says
at once what is there and where it is, as ``dog B 4`` does on a city map; or a list of facts. It learns to
answer from what it reads. It never sees a picture.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

from vistune.conversation import Conversation, ask, gpt, human
from vistune.data.sources.annotated import AnnotatedImage, Box
from vistune.data.teachers.reply import parse_pairs
from vistune.data.teachers.scripted import MOST_TURNS, OfflineTeacher
from vistune.data.teachers.teacher import TeacherRequest
from vistune.data.wording import sentence, with_article
from vistune.data.world.captions import captions
from vistune.data.world.render import Drawn
from vistune.data.world.scene import CANVAS, Placed, Scene, catalogue, draw_scene
from vistune.prompts import question_list

PART = "starter-text"  # this world's part that nothing else draws from
_SHARE_OF_FACTS = 0.1  # of dialogues: about a list of facts instead of a map
COLUMNS, ROWS = "ABCDE", "12345"
_MOST = {**MOST_TURNS, "relation": 6}  # left or right is what is learned last
_EARLY, _EARLY_DRILLS, _LATE_DRILLS = 24_000, 0.85, 0.1  # drills' share of the first dialogues, and later
GRID = 5  # cells a side: as many as the starter encoder has patches


Cell: TypeAlias = tuple[str, str, str]  # what is there; its column, a letter; its row, a digit


@dataclass(frozen=True)
class Dialogue:
    """A conversation and the map that it is about: the cells in reading order, none for facts in words.

    The conversation's picture stands for the map.
    """

    conversation: Conversation
    cells: tuple[Cell, ...]


def dialogues(seed: int, start: int, count: int) -> Iterator[Dialogue]:
    """Dialogues about scenes ``start`` to ``start + count``, one a scene."""
    teacher = OfflineTeacher(list(catalogue().categories), _MOST)
    for index in range(start, start + count):
        scene = draw_scene(PART, seed, index)
        rng = random.Random(f"dialogue/{scene.key}")
        drawn = [_outline(placed) for placed in scene.objects]
        annotated = AnnotatedImage(
            scene.key, ("",), tuple(captions(scene, drawn)), tuple(_box(item) for item in drawn)
        )
        pairs = _pairs(annotated, teacher, rng)
        if rng.random() < _SHARE_OF_FACTS:
            facts = f"{annotated.captions[1]}\n{pairs[0][0]}"
            yield Dialogue(_conversation(scene.key, [(facts, pairs[0][1]), *pairs[1:]], None), ())
        else:
            if rng.random() < (_EARLY_DRILLS if index < _EARLY else _LATE_DRILLS):
                pairs = _map_drill(scene, rng)
            yield Dialogue(_conversation(scene.key, pairs, scene.key), text_map(scene))


def text_map(scene: Scene) -> tuple[Cell, ...]:
    """The scene as ``GRID`` x ``GRID`` cells: what stands in each, or the background there."""
    names = [scene.background] * GRID**2
    for placed in scene.objects:
        column, row = placed.x * GRID // CANVAS, placed.y * GRID // CANVAS
        names[row * GRID + column] = placed.category
    return tuple((name, COLUMNS[number % GRID], ROWS[number // GRID]) for number, name in enumerate(names))


def cell_words() -> list[str]:
    """Every word that a cell may say."""
    return [*catalogue().backgrounds, *catalogue().categories, *COLUMNS, *ROWS]


def _conversation(key: str, pairs: Sequence[tuple[str, str]], picture: str | None) -> Conversation:
    turns = []
    for number, (question, answer) in enumerate(pairs):
        turns += [human(*ask(question, None if number else picture)), gpt(answer)]
    return Conversation(key, tuple(turns))


def _pairs(annotated: AnnotatedImage, teacher: OfflineTeacher, rng: random.Random) -> list[tuple[str, str]]:
    """Short questions, then sometimes one long answer: a caption, a description or an argument."""
    context = annotated.context()
    short = parse_pairs(teacher.reply(TeacherRequest("conversation", context, annotated.id)))
    long: list[tuple[str, str]] = []
    draw = rng.random()
    if draw < 0.2:
        long = [(rng.choice(question_list("brief")), rng.choice(annotated.captions))]
    elif draw < 0.25:
        reply = teacher.reply(TeacherRequest("detail", context, annotated.id))
        long = [(rng.choice(question_list("detail")), reply)]
    elif draw < 0.3:
        long = parse_pairs(teacher.reply(TeacherRequest("reasoning", context, annotated.id)))
    return long + short if rng.random() < 0.5 else short + long


def _map_drill(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Which thing is in which cell: the tersest questions to a map, where learning to read it begins."""
    cells = {_cell_of(placed): placed.category for placed in scene.objects}
    pairs = [(f"{cell}?", sentence(with_article(name))) for cell, name in cells.items()]
    for name in dict.fromkeys(cells.values()):
        pairs.append((f"{name}?", ", ".join(cell for cell in sorted(cells) if cells[cell] == name) + "."))
    others = [name for name in catalogue().categories if name not in cells.values()]
    pairs += [(f"{name}?", "Nowhere.") for name in rng.sample(others, 3)]
    single = [(cell, name) for cell, name in cells.items() if list(cells.values()).count(name) == 1]
    beside = list(permutations(single, 2))
    pairs += [_beside(one, other, rng) for one, other in rng.sample(beside, min(4, len(beside)))]
    rng.shuffle(pairs)
    return pairs


def _beside(one: tuple[str, str], other: tuple[str, str], rng: random.Random) -> tuple[str, str]:
    """How one cell lies to another, told as (cell, what is in it); sometimes with the cells at hand."""
    (here, name), (there, neighbour) = one, other
    across = "left" if here[0] < there[0] else "right" if here[0] > there[0] else ""
    along = "above" if here[-1] < there[-1] else "below" if here[-1] > there[-1] else ""
    answer = sentence(", ".join(word for word in (across, along) if word))
    if rng.random() < 0.5:
        return f"{name} from {neighbour}?", answer
    return f"{name} {here} from {neighbour} {there}?", answer


def _cell_of(placed: Placed) -> str:
    return f"{COLUMNS[placed.x * GRID // CANVAS]} {ROWS[placed.y * GRID // CANVAS]}"


def _outline(placed: Placed) -> Drawn:
    """A placed object's box, without painting it."""
    x, y, size = placed.x, placed.y, placed.size
    return Drawn(placed.category, (x - size // 2, y - size // 2, size, size), size * size)


def _box(item: Drawn) -> Box:
    x, y, width, height = item.bbox
    corners = (x / CANVAS, y / CANVAS, (x + width) / CANVAS, (y + height) / CANVAS)
    return Box(item.category, tuple(round(value, 3) for value in corners))  # type: ignore[arg-type]
