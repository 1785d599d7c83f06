"""Questions with one definite, short answer: presence, count, position, relation, listing.

Each kind is a few wordings and a rule that says which objects may be asked about: only those whose
answer is beyond doubt from the boxes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import permutations

import yaml

from vistune.data.regions import is_definite, region_name
from vistune.data.sources.annotated import Box
from vistune.data.teachers.scripted.scene_text import SceneText
from vistune.data.wording import counted, listed, noun, number_word, plural, sentence, with_article

QUESTION_KINDS = ("presence", "count", "position", "relation", "listing")

_WORDINGS: dict[str, tuple[str, ...]] = {
    "presence": (
        "Is there {a} in the picture?",
        "Can you see {a} here?",
        "Does the picture show {a}?",
    ),
    "count": (
        "How many {many} are there?",
        "How many {many} can you see?",
        "What is the number of {many} in the picture?",
    ),
    "position": (
        "Where is the {one}?",
        "Where in the picture is the {one}?",
        "In which part of the picture is the {one}?",
    ),
    "relation": (
        "Is the {one} to the left or to the right of the {other}?",
        "Is the {one} above or below the {other}?",
        "Is the {one} to the left of the {other}?",
        "Is the {one} to the right of the {other}?",
        "Is the {one} above the {other}?",
        "Is the {one} below the {other}?",
    ),
    "listing": (
        "What is in the picture?",
        "Which things can you see?",
        "What does the picture show?",
    ),
}
_SIDE_BY_SIDE = (
    0.2  # share of the width (height) by which centres differ when one is clearly beside the other
)
_LARGE = 0.3  # a box that covers more than this share of the picture is not "at" any place
_MOST_COUNTED = 10  # nobody counts more things than this at a glance
_MOST_LISTED = 6  # kinds of things in one list
MOST_TURNS = {"presence": 3, "count": 2, "position": 2, "relation": 2, "listing": 1}  # of each kind


@dataclass(frozen=True)
class Asked:
    kind: str
    question: str
    answer: str


def kind_of_question(question: str) -> str | None:
    """The kind of a question that this module wrote, or None for anybody else's."""
    for pattern, kind in _patterns():
        if pattern.fullmatch(question):
            return kind
    return None


def definite_questions(
    scene: SceneText, categories: Sequence[str], rng: random.Random, most: Mapping[str, int] = MOST_TURNS
) -> list[Asked]:
    """A shuffled choice of questions about ``scene``, several of each kind where it has them.

    Args:
        categories: the names that an absent thing may be drawn from.
        most: turns at most of each kind.
    """
    chosen: list[Asked] = []
    for kind, writer in _WRITERS.items():
        candidates = list(writer(scene, categories, rng))
        chosen += rng.sample(candidates, min(most[kind], len(candidates)))
    rng.shuffle(chosen)
    return chosen


def _presence(scene: SceneText, categories: Sequence[str], rng: random.Random) -> Iterator[Asked]:
    present = rng.sample(list(scene.counts), min(2, len(scene.counts)))
    absent = _absent(scene, categories, rng, count=len(present))
    for names, answer in ((present, "Yes."), (absent, "No.")):
        for name in names:
            wording = rng.choice(_WORDINGS["presence"])
            yield Asked("presence", wording.format(a=with_article(name)), answer)


def _absent(scene: SceneText, categories: Sequence[str], rng: random.Random, count: int) -> list[str]:
    """Names of things that neither the boxes nor the words of the captions can mean."""
    words = scene.words()
    absent = [
        name
        for name in categories
        if name not in scene.counts
        and name not in scene.crowds
        and not any(_mentions(words, alias) for alias in _aliases(name))
    ]
    return rng.sample(absent, min(count, len(absent)))


def _mentions(words: set[str], name: str) -> bool:
    last = name.split()[-1]
    return last in words or plural(last) in words


@cache
def _aliases(name: str) -> tuple[str, ...]:
    return (name, *_alias_table().get(name, ()))


@cache
def _alias_table() -> dict[str, list[str]]:
    text = resources.files(__package__).joinpath("aliases.yaml").read_text(encoding="utf-8")
    table: dict[str, list[str]] = yaml.safe_load(text)
    return table


def _count(scene: SceneText, categories: Sequence[str], rng: random.Random) -> Iterator[Asked]:
    several = [name for name, count in scene.counts.items() if 1 < count <= _MOST_COUNTED]
    single = [name for name, count in scene.counts.items() if count == 1]
    for name in several + rng.sample(single, min(1, len(single))):
        wording = rng.choice(_WORDINGS["count"])
        answer = sentence(number_word(scene.counts[name]))
        yield Asked("count", wording.format(many=plural(name)), answer)


def _position(scene: SceneText, categories: Sequence[str], rng: random.Random) -> Iterator[Asked]:
    for box in scene.single:
        if box.area <= _LARGE and is_definite(*box.center):
            wording = rng.choice(_WORDINGS["position"])
            yield Asked(
                "position", wording.format(one=noun(box.category)), sentence(region_name(*box.center))
            )


def _relation(scene: SceneText, categories: Sequence[str], rng: random.Random) -> Iterator[Asked]:
    for one, other in permutations(scene.single, 2):
        if one.area > _LARGE or other.area > _LARGE:
            continue
        answers = _clear_relations(one, other)
        if answers:
            wording, answer = rng.choice(answers)
            yield Asked(
                "relation", wording.format(one=noun(one.category), other=noun(other.category)), answer
            )


def _clear_relations(one: Box, other: Box) -> list[tuple[str, str]]:
    """Wordings whose answer is beyond doubt, with that answer."""
    side, height, left, right, above, below = _WORDINGS["relation"]
    dx, dy = (a - b for a, b in zip(one.center, other.center, strict=True))
    pairs: list[tuple[str, str]] = []
    if abs(dx) >= _SIDE_BY_SIDE:
        pairs.append((side, "To the left." if dx < 0 else "To the right."))
        pairs += [(left, _yes(dx < 0)), (right, _yes(dx > 0))]
    if abs(dy) >= _SIDE_BY_SIDE:
        pairs.append((height, "Above." if dy < 0 else "Below."))
        pairs += [(above, _yes(dy < 0)), (below, _yes(dy > 0))]
    return pairs


def _yes(true: bool) -> str:
    return "Yes." if true else "No."


def _listing(scene: SceneText, categories: Sequence[str], rng: random.Random) -> Iterator[Asked]:
    counts = scene.counts
    if not scene.crowds and 0 < len(counts) <= _MOST_LISTED and max(counts.values()) <= _MOST_COUNTED:
        answer = sentence(listed([counted(name, count) for name, count in counts.items()]))
        yield Asked("listing", rng.choice(_WORDINGS["listing"]), answer)


_WRITERS: dict[str, Callable[[SceneText, Sequence[str], random.Random], Iterator[Asked]]] = {
    "presence": _presence,
    "count": _count,
    "position": _position,
    "relation": _relation,
    "listing": _listing,
}


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(wording))), kind)
        for kind, wordings in _WORDINGS.items()
        for wording in wordings
    )
