"""The teacher: writes instruction data about a picture from words alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

SampleType: TypeAlias = Literal["conversation", "detail", "reasoning"]
SAMPLE_TYPES: tuple[SampleType, ...] = get_args(SampleType)


@dataclass(frozen=True)
class TeacherRequest:
    """What a teacher is asked: one type of text about one picture.

    Attributes:
        context: all that the teacher sees of the picture: captions, a blank line, boxes.
        seed: fixes every random choice of the answer, where the teacher has such choices.
    """

    type: SampleType
    context: str
    seed: str


class Teacher(Protocol):
    """Writes the reply to a request, in the format that :mod:`vistune.data.reply` reads.

    Attributes:
        boxes_for: the types for which it is shown boxes besides captions. The paper's teacher wrote
            conversations from captions alone.
    """

    name: str
    boxes_for: frozenset[SampleType]

    async def write(self, request: TeacherRequest) -> str: ...
