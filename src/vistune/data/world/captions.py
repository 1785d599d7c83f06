"""Five differently worded captions of a scene, as five people might write them."""

from __future__ import annotations

import random
from collections import Counter

from vistune.data.regions import region_name
from vistune.data.wording import counted, is_are, listed, number_word, sentence, with_article
from vistune.data.world.render import Drawn
from vistune.data.world.scene import CANVAS, Scene, catalogue


def captions(scene: Scene, drawn: list[Drawn]) -> list[str]:
    """Five captions: an inventory, the places, the setting, the number of things, a relation."""
    rng = random.Random(f"captions/{scene.key}")
    return [
        sentence(write(scene, drawn, rng)) for write in (_inventory, _places, _setting, _number, _relation)
    ]


def _inventory(scene: Scene, drawn: list[Drawn], rng: random.Random) -> str:
    counts = Counter(item.category for item in drawn)
    things = listed([counted(name, count) for name, count in counts.items()])
    return f"{things} {catalogue().backgrounds[scene.background]}"


def _places(scene: Scene, drawn: list[Drawn], rng: random.Random) -> str:
    order = rng.sample(drawn, len(drawn))
    return listed([f"{with_article(item.category)} {_region(item)}" for item in order])


def _setting(scene: Scene, drawn: list[Drawn], rng: random.Random) -> str:
    subject = with_article(rng.choice(drawn).category)
    if scene.theme and rng.random() < 0.7:
        opening = rng.choice(("a picture of {}", "a scene from {}", "this looks like {}"))
        return f"{opening.format(scene.theme)}, with {subject}"
    setting = catalogue().backgrounds[scene.background]
    return rng.choice((f"there is {subject} {setting}", f"{subject}, seen {setting}"))


def _number(scene: Scene, drawn: list[Drawn], rng: random.Random) -> str:
    counts = Counter(item.category for item in drawn)
    things = listed([counted(name, count) for name, count in sorted(counts.items())])
    total = len(drawn)
    if total == 1:
        return rng.choice((f"a single thing can be seen: {things}", f"nothing but {things}"))
    return f"{number_word(total)} things: {things}"


def _relation(scene: Scene, drawn: list[Drawn], rng: random.Random) -> str:
    if len(drawn) == 1:
        return f"{with_article(drawn[0].category)} {_region(drawn[0])}, and nothing else"
    first, second = rng.sample(drawn, 2)
    others = len(drawn) - 2
    tail = f", and {number_word(others)} more {'thing' if others == 1 else 'things'}" if others else ""
    one, other = with_article(first.category), with_article(second.category)
    verb = f"there {is_are(1)} " if rng.random() < 0.3 else ""
    return f"{verb}{one} {_direction(first, second)} {other}{tail}"


def _direction(first: Drawn, second: Drawn) -> str:
    (x1, y1), (x2, y2) = _center(first), _center(second)
    if abs(x1 - x2) >= abs(y1 - y2):
        return "to the left of" if x1 < x2 else "to the right of"
    return "above" if y1 < y2 else "below"


def _center(item: Drawn) -> tuple[float, float]:
    x, y, width, height = item.bbox
    return (x + width / 2) / CANVAS, (y + height / 2) / CANVAS


def _region(item: Drawn) -> str:
    return region_name(*_center(item))
