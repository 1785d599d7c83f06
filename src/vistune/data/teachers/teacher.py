"""The teacher: writes instruction data about a picture from words alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, get_args

SampleType: TypeAlias = Literal["conversation", "detail", "reasoning"]
SAMPLE_TYPES: tuple[SampleType, ...] = get_args(SampleType)


@dataclass(frozen=True)
class TeacherRequest:
    """What a teacher is asked: one type of text about one picture.

    Attributes:
        context: all that the teacher sees of the picture: captions, a blank line, boxes.
        seed: fixes every random choice of the answer, where the teacher has such choices.
        attempt: from 0; a later one asks for another answer to the same.
    """

    type: SampleType
    context: str
    seed: str
    attempt: int = 0


@dataclass(frozen=True)
class TeacherReply:
    """What it wrote.

    Attributes:
        flaw: why the text cannot be used, where the teacher itself knows: it refused, it was cut off.
        source: where the text came from, for the record.
    """

    text: str
    flaw: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)


class NoReplyError(Exception):
    """The teacher gave no reply to this request; the others go on. The message says why."""


class Teacher(Protocol):
    """Writes the reply to a request, in the format that :mod:`vistune.data.teachers.reply` reads.

    Attributes:
        boxes_for: the types for which it is shown boxes besides captions. The paper's teacher wrote
            conversations from captions alone.
        in_flight: requests that it takes at a time.
        varies: it may write something else when it is asked again.
    """

    name: str
    boxes_for: frozenset[SampleType]
    in_flight: int
    varies: bool

    def describe(self) -> dict[str, Any]:
        """All that decides what it writes, for the record."""
        ...

    async def write(self, request: TeacherRequest) -> TeacherReply:
        """Raises NoReplyError."""
        ...

    async def close(self) -> None:
        """Let go of what it holds open."""
        ...
