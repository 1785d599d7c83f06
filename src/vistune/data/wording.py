"""Small pieces of English: plurals, articles, number words, lists."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import inflect

# Words that already name many, which a general rule would make plural twice.
_ALREADY_PLURAL = frozenset({"skis", "scissors", "glasses", "grapes"})
_ALREADY_PLURAL_ARTICLE = "some"
_MASS = frozenset({"broccoli", "bread", "cheese", "corn"})


@cache
def _engine() -> inflect.engine:
    return inflect.engine()


@cache
def plural(noun: str) -> str:
    """``dog`` -> ``dogs``; ``wine glass`` -> ``wine glasses``; ``skis`` stays."""
    if noun.split()[-1] in _ALREADY_PLURAL | _MASS:
        return noun
    return str(_engine().plural_noun(noun))


@cache
def with_article(noun: str) -> str:
    """``dog`` -> ``a dog``; ``umbrella`` -> ``an umbrella``; ``skis`` -> ``some skis``."""
    if noun.split()[-1] in _ALREADY_PLURAL | _MASS:
        return f"{_ALREADY_PLURAL_ARTICLE} {noun}"
    return str(_engine().a(noun))


@cache
def number_word(number: int) -> str:
    """``3`` -> ``three``; from 21 on, digits."""
    return str(_engine().number_to_words(number)) if number <= 20 else str(number)  # type: ignore[arg-type]


def counted(noun: str, count: int) -> str:
    """``(dog, 1)`` -> ``a dog``; ``(dog, 2)`` -> ``two dogs``."""
    return with_article(noun) if count == 1 else f"{number_word(count)} {plural(noun)}"


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
