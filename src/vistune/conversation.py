"""Conversations about pictures, and LLaVA's JSON for them.

A turn's content is a sequence of text and pictures. A picture is a value of its own, never a piece of
text, so that no text of a user or of a data set can turn into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

IMAGE_PLACEHOLDER = "<image>"  # stands for the picture in LLaVA's JSON and in chat templates
IGNORE_INDEX = -100  # the label of a position that is not trained on

Speaker: TypeAlias = Literal["human", "gpt"]


@dataclass(frozen=True)
class Picture:
    """A place where a picture stands; ``file`` is relative to the folder of images."""

    file: str


Content: TypeAlias = "tuple[str | Picture, ...]"


@dataclass(frozen=True)
class Turn:
    speaker: Speaker
    content: Content

    @property
    def text(self) -> str:
        """The turn's words, without its pictures."""
        return "".join(part for part in self.content if isinstance(part, str)).strip("\n")


@dataclass(frozen=True)
class Conversation:
    """Turns that alternate, human first. ``id`` names it in its data set."""

    id: str
    turns: tuple[Turn, ...]

    @property
    def pictures(self) -> list[str]:
        """Files of the pictures, in the order of their places."""
        return [part.file for turn in self.turns for part in turn.content if isinstance(part, Picture)]


def human(*content: str | Picture) -> Turn:
    return Turn("human", content)


def gpt(text: str) -> Turn:
    return Turn("gpt", (text,))


def ask(
    question: str, pictures: str | Sequence[str] | None, picture_first: bool = True
) -> tuple[str | Picture, ...]:
    """A question's content: its pictures before it or after it, each on a line of its own (paper Eq. 4)."""
    files = [pictures] if isinstance(pictures, str) else pictures or ()
    if picture_first:
        lead = [part for file in files for part in (Picture(file), "\n")]
        return (*lead[:-1], "\n" + question) if lead else (question,)
    tail = [part for file in files for part in ("\n", Picture(file))]
    return (question + "\n", *tail[1:]) if tail else (question,)


def picture_first(conversation: Conversation) -> Conversation:
    """The conversation with its first question written as :func:`ask` does, the pictures before the words.

    It is left as it is where no words stand before a picture there, or where they stand between pictures and
    so speak of their places.
    """
    if not conversation.turns:
        return conversation
    first, *rest = conversation.turns
    places = [place for place, part in enumerate(first.content) if isinstance(part, Picture)]
    words = [place for place, part in enumerate(first.content) if isinstance(part, str) and part.strip()]
    if not places or not words or max(words) > min(places):
        return conversation
    files = [part.file for part in first.content if isinstance(part, Picture)]
    return Conversation(conversation.id, (human(*ask(first.text, files)), *rest))


def from_json(record: Any) -> Conversation:
    """Read one record of LLaVA's JSON.

    Raises:
        ValueError: the record is malformed; the message says where.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError("`conversations` is missing or empty")
    files = _files_from_json(record.get("image"))
    parsed = tuple(_turn_from_json(turn, number, files) for number, turn in enumerate(turns))
    if files:
        raise ValueError(f"{len(files)} more image(s) than `{IMAGE_PLACEHOLDER}` placeholders")
    if len(parsed) % 2:
        raise ValueError("the last turn has no answer")
    return Conversation(str(record.get("id", "")), parsed)


def to_json(conversation: Conversation) -> dict[str, Any]:
    """Write one record of LLaVA's JSON; the inverse of :func:`from_json`.

    Raises:
        ValueError: a text contains the placeholder; read back, it would be a picture.
    """
    texts = (part for turn in conversation.turns for part in turn.content if isinstance(part, str))
    if any(IMAGE_PLACEHOLDER in text for text in texts):
        raise ValueError(f"a text contains `{IMAGE_PLACEHOLDER}`, which stands for a picture")
    record: dict[str, Any] = {"id": conversation.id}
    if pictures := conversation.pictures:
        record["image"] = pictures[0] if len(pictures) == 1 else pictures
    record["conversations"] = [
        {
            "from": turn.speaker,
            "value": "".join(IMAGE_PLACEHOLDER if isinstance(p, Picture) else p for p in turn.content),
        }
        for turn in conversation.turns
    ]
    return record


def _files_from_json(image: Any) -> list[str]:
    files = [] if image is None else [image] if isinstance(image, str) else image
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ValueError(f"`image`: expected a file name or a list of them, found {image!r}")
    return list(files)


def _turn_from_json(turn: Any, number: int, files: list[str]) -> Turn:
    expected: Speaker = "gpt" if number % 2 else "human"
    if not isinstance(turn, dict) or turn.get("from") != expected or not isinstance(turn.get("value"), str):
        raise ValueError(f"conversations[{number}]: expected `from`: {expected!r} and `value`: text")
    pieces = turn["value"].split(IMAGE_PLACEHOLDER)
    if expected == "gpt":
        if len(pieces) > 1:
            raise ValueError(f"conversations[{number}]: an answer must not contain `{IMAGE_PLACEHOLDER}`")
        if not turn["value"].strip():
            raise ValueError(f"conversations[{number}]: the answer is empty")
    content: list[str | Picture] = [pieces[0]]
    for piece in pieces[1:]:
        if not files:
            raise ValueError(f"conversations[{number}]: more `{IMAGE_PLACEHOLDER}` placeholders than images")
        content += [Picture(files.pop(0)), piece]
    return Turn(expected, tuple(part for part in content if part != ""))


def questions_and_answers(conversation: Conversation) -> Sequence[tuple[str, str]]:
    """Pairs of question and answer, as plain words."""
    turns = conversation.turns
    return [(question.text, answer.text) for question, answer in zip(turns[::2], turns[1::2], strict=True)]
