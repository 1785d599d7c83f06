"""The offline teacher's three kinds of writing."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from vistune.data.regions import REGION_NAMES, region_name
from vistune.data.sources.annotated import Box
from vistune.data.teachers.reply import format_pairs
from vistune.data.teachers.scripted.questions import MOST_TURNS, definite_questions
from vistune.data.teachers.scripted.scene_text import SceneText
from vistune.data.teachers.teacher import SAMPLE_TYPES, TeacherReply, TeacherRequest
from vistune.data.wording import counted, is_are, listed, noun, plural, sentence, with_article

_MOST_PLACED = 5  # things whose place a description tells
_FEW = 2  # of more things of one kind than this, no single one is told apart
_SIZES = ((0.25, "large"), (0.05, ""), (0.0, "small"))  # least share of the picture, and what it is called

# Words of captions that tell nothing of their own.
_FILLER = frozenset(
    """there this that looks like picture scene from with more thing things above below nothing else
    seen single three four five other next some very""".split()
)


@dataclass(frozen=True)
class _Situation:
    need: int
    signs: frozenset[str]
    question: str
    answer: str


@cache
def _situations() -> tuple[_Situation, ...]:
    text = resources.files(__package__).joinpath("situations.yaml").read_text(encoding="utf-8")
    rows = yaml.safe_load(text)["situations"]
    return tuple(_Situation(r["need"], frozenset(r["signs"]), r["question"], r["answer"]) for r in rows)


class OfflineTeacher:
    """Rules instead of an LLM: the same request always gets the same reply.

    Args:
        categories: names of all the things that pictures of this data set may show.
        most: short questions at most in one conversation, of each kind.
    """

    name = "offline"
    boxes_for = frozenset(SAMPLE_TYPES)
    in_flight = 1
    varies = False

    def __init__(self, categories: Sequence[str], most: Mapping[str, int] = MOST_TURNS) -> None:
        self._categories = tuple(sorted(categories))
        self._most = most

    def describe(self) -> dict[str, Any]:
        return {"teacher": self.name}

    async def write(self, request: TeacherRequest) -> TeacherReply:
        return TeacherReply(self.reply(request))

    async def close(self) -> None:
        """Nothing is open."""

    def reply(self, request: TeacherRequest) -> str:
        """The reply itself; nothing is waited for."""
        scene = SceneText.parse(request.context)
        rng = random.Random(f"offline teacher/{request.type}/{request.seed}")
        if request.type == "detail":
            return _describe(scene)
        if request.type == "reasoning":
            return format_pairs([_argue(scene)])
        return format_pairs(self._converse(scene, rng))

    def _converse(self, scene: SceneText, rng: random.Random) -> list[tuple[str, str]]:
        asked = definite_questions(scene, self._categories, rng, self._most)
        if not asked:
            return [("What can be seen here?", sentence(_gist(scene)))]
        return [(item.question, item.answer) for item in asked]


def _describe(scene: SceneText) -> str:
    """A detailed description: what there is, where the largest things are, how they lie to each other."""
    if not scene.boxes:
        return " ".join(sentence(caption) for caption in scene.captions[:3])
    sentences = [f"the picture shows {_things(scene)}"]
    if gist := _gist(scene):
        sentences.append(gist)
    few = [box for box in scene.boxes if 0 < scene.counts[box.category] <= _FEW]
    placed = sorted(few, key=lambda box: (-box.area, box.category))[:_MOST_PLACED]
    sentences += [_place(box, scene) for box in sorted(placed, key=lambda box: (box.category, box.corners))]
    return " ".join(sentence(text) for text in sentences)


def _gist(scene: SceneText) -> str:
    """The caption that adds most to the names and places of things: to what is said anyway."""
    said = {word for name in scene.counts for word in (*name.split(), plural(name.split()[-1]))}
    said.update(_FILLER, (word for region in REGION_NAMES for word in region.split()))

    def news(caption: str) -> tuple[int, str]:
        words = {word for word in re.findall(r"[a-z]+", caption.lower()) if len(word) > 3}
        return len(words - said), caption

    return max(scene.captions, key=news, default="")


def _things(scene: SceneText) -> str:
    """All that is there, in alphabetical order; of a crowd, only that there are many."""
    counts = {name: counted(name, count) for name, count in scene.counts.items()}
    crowds = {name: f"many {plural(name)}" for name in scene.crowds}
    return listed([phrase for _, phrase in sorted({**counts, **crowds}.items())])


def _place(box: Box, scene: SceneText) -> str:
    size = next(word for least, word in _SIZES if box.area >= least)
    name = f"{size} {noun(box.category)}".strip()
    subject = f"the {name}" if scene.counts[box.category] == 1 else with_article(name)
    return f"{subject} is {region_name(*box.center)}"


def _argue(scene: SceneText) -> tuple[str, str]:
    """A question that needs a conclusion, and the argued answer."""
    for situation in _situations():
        found = [name for name in scene.counts if name in situation.signs]
        if len(found) >= situation.need:
            signs = listed([counted(name, scene.counts[name]) for name in found])
            verb = is_are(sum(scene.counts[name] for name in found))
            return situation.question, situation.answer.format(Signs=signs[:1].upper() + signs[1:], are=verb)
    gist = _gist(scene) or f"there is {_things(scene)}"
    return "What is this picture probably about?", (
        f"{sentence(gist)} Nothing else stands out, so this is probably what the picture is about."
    )
