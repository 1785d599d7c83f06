"""Objects that a text names: COCO's categories with their synonyms, or the categories of any other file.

Synonyms are mapped to categories as CHAIR does it (Rohrbach et al. 2018, "Object Hallucination in Image
Captioning"), with a table of our own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple, TypeAlias

import yaml

from vistune.data.audit.stance import Stance, stances
from vistune.data.wording import plural

Words: TypeAlias = "tuple[str, ...]"

_SENTENCE = re.compile(r"[^.!?;\n]+[.!?;]?")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")
_JOINED = re.compile(r"[ \t\u00a0]|[ \t\u00a0]?[-‐‑][ \t\u00a0]?")  # what may stand between words of one name
_DETERMINERS = frozenset(
    """a an the this that these those his her its their our your my one two three four five six seven eight
    nine ten another each every some any no several many few both half of""".split()
)
# Words after which the noun before them is complete.
_FUNCTION_WORDS = frozenset(
    """and or nor but is are was were be being been has have had in on at by with of to from for near next
    behind under over above below beside besides between into onto through across along around against that
    which who while as can could may might will would should does do did not then also too inside outside
    off up down out about towards toward visible sitting standing lying hanging resting placed
    parked""".split()
)
_CAUTIOUS = ("noun_only", "needs_determiner")
_NOT_ONE = frozenset("like shaped themed sized style print free proof friendly".split())  # "cat-like"


@dataclass(frozen=True)
class Mention:
    """A place in a text where an object is named.

    Attributes:
        categories: what it may mean; one for most words.
        start, end: of the words, in characters.
        stance: whether the text asserts that it is there.
    """

    categories: tuple[str, ...]
    start: int
    end: int
    stance: Stance


@dataclass(frozen=True)
class _Entry:
    words: Words
    categories: tuple[str, ...]  # none: the phrase names no object
    noun_only: bool
    needs_determiner: bool


class _Token(NamedTuple):
    word: str  # lower case, without 's
    raw: str
    start: int
    end: int


class Vocabulary:
    """Finds the objects that texts name.

    Args:
        categories: names of the annotated categories. Those of COCO bring their synonyms along; any other
            name stands for itself and its plural. All case is ignored.
    """

    def __init__(self, categories: Iterable[str]) -> None:
        names = {name: name for name in dict.fromkeys(categories)}
        table = _table()
        phrases: dict[Words, tuple[str, ...]] = {}
        for phrase in table["not_the_thing"]:
            phrases.update(dict.fromkeys(_forms(phrase), ()))
        for category, words in table["categories"].items():
            known = (category,) if category in names else ()
            for phrase in (category, *words):
                if known or " " in phrase:  # "hot dog" is no dog, whether or not hot dogs are annotated
                    phrases.update(dict.fromkeys(_forms(phrase), known))
        for phrase, meant in table["any_of"].items():
            if found := tuple(category for category in meant if category in names):
                phrases.update(dict.fromkeys(_forms(phrase), found))
        for name in names:  # a category's own name means nothing else
            phrases.update(dict.fromkeys(_forms(name), (name,)))
        noun_only, determined = ({f for w in table[key] for f in _forms(w)} for key in _CAUTIOUS)
        self._modifiers, self._adjectives = frozenset(table["modifiers"]), frozenset(table["adjectives"])
        self._imitations = frozenset(table["imitations"])
        self._entries: dict[str, list[_Entry]] = defaultdict(list)
        for words, meant in phrases.items():
            self._entries[words[0]].append(_Entry(words, meant, words in noun_only, words in determined))
        for entries in self._entries.values():
            entries.sort(key=lambda entry: -len(entry.words))

    def find(self, text: str) -> list[Mention]:
        """Every mention in ``text``, in order."""
        found: list[Mention] = []
        for sentence in _SENTENCE.finditer(text):
            tokens = _tokens(text, sentence.start(), sentence.end())
            hits = list(self._hits(text, tokens))
            if hits:
                spans = [(first, last) for first, last, _ in hits]
                sides = stances(
                    text, [(t.raw, t.start, t.end) for t in tokens], spans, sentence.group()[-1] == "?"
                )
                found += (
                    Mention(categories, tokens[first].start, tokens[last].end, side)
                    for (first, last, categories), side in zip(hits, sides, strict=True)
                )
        return found

    def asserted(self, text: str) -> set[str]:
        """Categories that ``text`` says are there, where a word may mean several: all of them."""
        return {
            name for mention in self.find(text) if mention.stance == "asserted" for name in mention.categories
        }

    def _hits(self, text: str, tokens: Sequence[_Token]) -> Iterable[tuple[int, int, tuple[str, ...]]]:
        """First and last token of each mention, and its categories; the longest phrase wins."""
        place = 0
        while place < len(tokens):
            entry = self._entry_at(text, tokens, place)
            if entry is None:
                place += 1
                continue
            last = place + len(entry.words) - 1
            if entry.categories and self._is_thing(text, tokens, place, last, entry):
                yield place, last, entry.categories
            place = last + 1

    def _entry_at(self, text: str, tokens: Sequence[_Token], place: int) -> _Entry | None:
        token = tokens[place]
        keys = (token.word,) if token.raw is token.word else (token.raw, token.word)
        for key in keys:
            for entry in self._entries.get(key, ()):
                if len(entry.words) == 1 or _continues(text, tokens, place, entry.words):
                    return entry
        return None

    def _is_thing(self, text: str, tokens: Sequence[_Token], first: int, last: int, entry: _Entry) -> bool:
        if first and tokens[first - 1].word in self._imitations:
            return False
        if last + 1 < len(tokens):
            after, gap = tokens[last + 1], text[tokens[last].end : tokens[last + 1].start]
            if gap == "-" and after.word in _NOT_ONE:
                return False
            if entry.words[-1] in self._modifiers and gap == " ":
                following = self._entry_at(text, tokens, last + 1)
                if following and following.categories and following.categories != entry.categories:
                    return False
            if entry.noun_only and gap.isspace() and after.word not in _FUNCTION_WORDS:
                return False
        needs = entry.noun_only or entry.needs_determiner
        return not needs or self._is_determined(text, tokens, first)

    def _is_determined(self, text: str, tokens: Sequence[_Token], first: int) -> bool:
        """Whether a determiner stands before, at most with adjectives between: ``the ripe orange``."""
        place = first - 1
        while place >= 0 and text[tokens[place].end : tokens[place + 1].start].strip(" ,-") == "":
            if tokens[place].word in _DETERMINERS or tokens[place].raw.endswith("'s"):
                return True
            if tokens[place].word not in self._adjectives:
                return False
            place -= 1
        return False


def _tokens(text: str, start: int, end: int) -> list[_Token]:
    tokens = []
    for match in _WORD.finditer(text, start, end):
        raw = match.group().lower()
        word = raw
        if not raw.isalpha():
            raw = raw.replace("’", "'")
            word = raw.removesuffix("'s")
        tokens.append(_Token(word, raw, match.start(), match.end()))
    return tokens


def _continues(text: str, tokens: Sequence[_Token], place: int, words: Words) -> bool:
    if place + len(words) > len(tokens):
        return False
    for offset in range(1, len(words)):
        token = tokens[place + offset]
        if words[offset] not in (token.word, token.raw):
            return False
        if not _JOINED.fullmatch(text, tokens[place + offset - 1].end, token.start):
            return False
    return True


@cache
def _table() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("objects.yaml").read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


@cache
def _forms(name: str) -> tuple[Words, ...]:
    """Singular and plural of a name, as words."""
    singular = _split(name)
    many = _split(plural(name).removeprefix("pairs of ").removeprefix("pieces of "))
    return tuple(dict.fromkeys((singular, many)))


def _split(name: str) -> Words:
    return tuple(match.group().lower().replace("’", "'") for match in _WORD.finditer(name)) or (name.lower(),)
