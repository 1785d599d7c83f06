"""The letter that an answer to a multiple-choice question names, read strictly.

A bare letter; else a letter, a full stop and a space at the start; else ``The answer is X.`` exactly once;
else nothing, which counts as wrong. (LLaVA's first code drew a choice at random instead.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import ascii_uppercase

from vistune.data.scienceqa.prompt import STATED_ANSWER

# The speaker's name, where an answer repeats it as LLaVA's published ones do; it is not part of the answer.
_SPEAKER = re.compile(r"\s*(?:assistant|ASSISTANT|Assistant):\s*")
_BARE = re.compile(r"([A-Z])\s*")
_PREFIX = re.compile(r"([A-Z])\. ")


@dataclass(frozen=True)
class Reading:
    """What an answer names.

    Attributes:
        letter: of one of the choices; None where the answer cannot be read.
        why: it cannot.
    """

    letter: str | None
    why: str = ""

    @property
    def index(self) -> int | None:
        """Of the choice."""
        return None if self.letter is None else ascii_uppercase.index(self.letter)


def read_letter(answer: str, choices: int) -> Reading:
    """Which of ``choices`` an answer names."""
    speaker = _SPEAKER.match(answer)
    text = (answer[speaker.end() :] if speaker else answer).lstrip()
    if not text.strip():
        return Reading(None, "empty answer")
    if match := _BARE.fullmatch(text) or _PREFIX.match(text):
        return _among(match[1], choices)
    stated = STATED_ANSWER.findall(text)
    if len(stated) == 1:
        return _among(stated[0], choices)
    if stated:
        return Reading(None, f"states an answer {len(stated)} times ({', '.join(stated[:5])})")
    return Reading(None, "names no letter")


def read_index(index: object, choices: int) -> Reading:
    """Which of ``choices`` a stored index names."""
    if not isinstance(index, int) or isinstance(index, bool):
        return Reading(None, "no stored index" if index is None else f"the stored index is {index!r}"[:80])
    if not 0 <= index < choices:
        return Reading(None, f"the stored index is {index}, of {choices} choices")
    return Reading(ascii_uppercase[index])


def _among(letter: str, choices: int) -> Reading:
    if letter not in ascii_uppercase[:choices]:
        return Reading(None, f"answers {letter}, of {choices} choices")
    return Reading(letter)
