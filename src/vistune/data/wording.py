"""Small pieces of English: plurals, articles, number words, lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import inflect

# Names that cannot be counted as they are, and what one of them is called.
_UNITS = {
    "skis": "pair of",
    "scissors": "pair of",
    "glasses": "pair of",
    "broccoli": "piece of",
    "bread": "piece of",
}


@cache
def _engine() -> inflect.engine:
    import inflect  # takes longer than all else that asks or scores a question needs

    return inflect.engine()


def noun(name: str) -> str:
    """One thing of that name: ``dog`` stays; ``skis`` -> ``pair of skis``."""
    unit = _UNITS.get(name.split()[-1])
    return f"{unit} {name}" if unit else name


@cache
def plural(name: str) -> str:
    """``dog`` -> ``dogs``; ``wine glass`` -> ``wine glasses``; ``skis`` -> ``pairs of skis``."""
    first, of, rest = noun(name).partition(" of ")
    return f"{_engine().plural_noun(first)}{of}{rest}"


@cache
def with_article(name: str) -> str:
    """``dog`` -> ``a dog``; ``umbrella`` -> ``an umbrella``; ``skis`` -> ``a pair of skis``."""
    return str(_engine().a(noun(name)))


@cache
def number_word(number: int) -> str:
    """``3`` -> ``three``; from 21 on, digits."""
    return str(_engine().number_to_words(number)) if number <= 20 else str(number)  # type: ignore[arg-type]


def counted(name: str, count: int) -> str:
    """``(dog, 1)`` -> ``a dog``; ``(dog, 2)`` -> ``two dogs``."""
    return with_article(name) if count == 1 else f"{number_word(count)} {plural(name)}"


def listed(parts: Sequence[str]) -> str:
    """``[a, b, c]`` -> ``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def sentence(text: str) -> str:
    """First letter capital, full stop at the end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def is_are(count: int) -> str:
    return "is" if count == 1 else "are"
