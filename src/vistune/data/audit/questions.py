"""Kinds of questions, by their words."""

from __future__ import annotations

import re

# Kind -> what its questions begin with. The first kind that matches is taken.
_KINDS = {
    "instruction": (
        r"((please|can you|could you|would you|i want you to|i would like( you to)?) )?(a (\w+ )?description|"
        r"analy[sz]e|characteri[sz]e|clarify|create|describe|elaborate|examine|explain|give|identify|list|look|"
        r"name|narrate|offer|paint|portray|present|provide|render|share|summari[sz]e|tell|walk|write)\b",
    ),
    "presence": (
        r"(is|are|was|were) there\b",
        r"(can|do) you (see|spot|find|notice)\b",
        r"does (the|this) (picture|image|photo|scene) (show|contain|include|have|feature)\b",
        r"(is|are) any\b.*\b(visible|present|in)\b",
    ),
    "count": (r".*\bhow many\b", r".*\bthe (total )?number of\b"),
    "colour": (r".*\b(what|which)( is the| are the)?( \w+)? colou?rs?\b",),
    "place": (
        r".*\bwhere\b",
        r".*\b(in which part|on which side|what is the (location|position))\b",
        r"(is|are) .*\b(to the (left|right)|above|below|in front of|behind|on top of|next to)\b",
    ),
    "reason": (
        r".*\b(why|how come)\b",
        r".*\bwhat (is|are|was|could be|might be|may be|would be) (a|the) (\w+ )?reasons?\b",
    ),
    "manner": (r"(.*, )?how\b",),
    "person": (r"(.*, )?(who|whose)\b",),
    "time": (r"(.*, )?when\b", r"(.*, )?(at |during |in )?(what|which) (time|season|part of the day)\b"),
    "activity": (
        r".*\bwhat (is|are|was|were) .*\bdoing\b",
        r".*\bwhat (activity|activities|is happening|is going on)\b",
    ),
    "type": (r".*\b(what|which) (kind|type|sort|breed|style|brand|species)s?\b",),
    "yes or no": (r"(are|can|could|did|do|does|had|has|have|is|may|might|should|was|were|will|would)\b",),
    "what": (r".*\b(what|which)\b",),
}
KINDS = (*_KINDS, "other")
_PATTERNS = tuple((name, re.compile("|".join(starts))) for name, starts in _KINDS.items())
_NUMBERS = frozenset(
    """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty several many""".split()
)
_FIRST_WORDS = 2


def kind_of(question: str) -> str:
    """One of :data:`KINDS`."""
    plain = _plain(question)
    return next((name for name, pattern in _PATTERNS if pattern.match(plain)), "other")


def first_words(question: str) -> str:
    """The first two words, in lower case."""
    return " ".join(re.findall(r"[\w'’]+", question.lower())[:_FIRST_WORDS])


def affirms(question: str, answer: str) -> bool:
    """Whether a short answer says that what the question names is there: "Is there a dog?" "Yes."."""
    first = next(iter(re.findall(r"\w+", answer.lower())), "")
    kind = kind_of(question)
    if kind == "presence":
        return first == "yes"
    return kind == "count" and (first in _NUMBERS or (first.isdecimal() and int(first) > 0))


def _plain(question: str) -> str:
    return " ".join(question.lower().split())
