"""One record: why it is malformed, all the reasons at once; and what is odd about one that is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER, Conversation, Picture
from vistune.data.images import Flaw

_SPEAKERS = ("human", "gpt")
_MOST_SHOWN = 60  # characters of a value in a detail


def faults_of(value: Any) -> list[Flaw]:
    """Every reason why :func:`vistune.conversation.from_json` refuses the record.

    There is one phrase for each reason, so that reasons can be counted; the detail says where.
    """
    if not isinstance(value, dict):
        return [Flaw("record is not an object", _shown(value))]
    found = []
    files = [value["image"]] if isinstance(value.get("image"), str) else value.get("image") or []
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        found.append(Flaw("`image` is not a file name", _shown(value["image"])))
        files = None
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        return [*found, Flaw("`conversations` is missing or empty", _shown(turns))]
    for number, turn in enumerate(turns):
        found += (Flaw(reason, f"conversations[{number}]{more}") for reason, more in _faults_of_turn(turn))
    found += _faults_of_order(turns)
    if files is not None:
        found += _faults_of_count(turns, len(files))
    return found


def oddities_of(conversation: Conversation) -> Iterator[Flaw]:
    """What can be trained on, but is probably not meant."""
    if not conversation.id:
        yield Flaw("record has no `id`")
    for number, turn in enumerate(conversation.turns):
        pictured = any(isinstance(part, Picture) for part in turn.content)
        if turn.speaker == "human" and not pictured and not turn.text.strip():
            yield Flaw("empty question", f"conversations[{number}]")


def _faults_of_turn(turn: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        yield "turn is not an object with `from` and `value`", f": {_shown(turn)}"
        return
    if turn["from"] not in _SPEAKERS:
        yield "unknown speaker", f": expected 'human' or 'gpt', found {_shown(turn['from'])}"
    if not isinstance(turn["value"], str):
        yield "`value` is not text", f": {_shown(turn['value'])}"
    elif turn["from"] == "gpt":
        if not turn["value"].strip():
            yield "the answer is empty", ""
        if IMAGE_PLACEHOLDER in turn["value"]:
            yield f"`{IMAGE_PLACEHOLDER}` in an answer", ""


def _faults_of_order(turns: list[Any]) -> Iterator[Flaw]:
    """The first turn that is out of order, and an end without an answer."""
    speakers = [turn.get("from") if isinstance(turn, dict) else None for turn in turns]
    for number, speaker in enumerate(speakers):
        expected = _SPEAKERS[number % 2]
        if speaker in _SPEAKERS and speaker != expected:
            yield Flaw(
                "turns out of order", f"conversations[{number}]: expected {expected!r}, found {speaker!r}"
            )
            break
    if speakers[-1] == "human":
        yield Flaw("the last turn has no answer", f"conversations[{len(turns) - 1}]")


def _faults_of_count(turns: list[Any], files: int) -> Iterator[Flaw]:
    texts = (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") != "gpt")
    places = sum(text.count(IMAGE_PLACEHOLDER) for text in texts if isinstance(text, str))
    if places != files:
        more = "fewer" if places < files else "more"
        yield Flaw(f"{more} `{IMAGE_PLACEHOLDER}` than images", f"{places} placeholders, {files} images")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"
