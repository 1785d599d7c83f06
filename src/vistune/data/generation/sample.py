"""One sample: ask the teacher, read the reply, check it, ask again or quarantine it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vistune.conversation import Conversation, ask, gpt, human, to_json
from vistune.data.generation.checks import SampleFlaw, find_sample_flaw
from vistune.data.generation.plan import GenerationSettings, PicturePlace, Planned
from vistune.data.teachers.reply import ReplyError, format_pairs, parse_pairs, parse_prose
from vistune.data.teachers.teacher import NoReplyError, Teacher, TeacherReply, TeacherRequest
from vistune.prompts import question_list

BAD_FORMAT = "reply does not follow the format"
NO_REPLY = "no reply"  # the next run asks again


@dataclass(frozen=True, slots=True)
class Sample:
    """A finished sample, as JSON: a third of the memory, of which a large run holds hundreds of thousands."""

    _record: bytes
    _origin: bytes

    @classmethod
    def of(cls, record: dict[str, Any], origin: dict[str, Any]) -> Sample:
        return cls(*(json.dumps(part, ensure_ascii=False).encode() for part in (record, origin)))

    @property
    def record(self) -> dict[str, Any]:
        """In LLaVA's JSON."""
        content: dict[str, Any] = json.loads(self._record)
        return content

    @property
    def origin(self) -> dict[str, Any]:
        """How it came about: teacher, prompt, attempt, random choices."""
        content: dict[str, Any] = json.loads(self._origin)
        return content


@dataclass(frozen=True)
class Quarantined:
    """A sample that could not be made, and the last reply to it, raw."""

    id: str
    reason: str
    detail: str
    attempts: int
    reply: str


async def make_sample(
    planned: Planned, teacher: Teacher, settings: GenerationSettings, dialogue: str = ""
) -> Sample | Quarantined:
    """Ask up to ``settings.attempts`` times for a sample that passes all checks.

    Args:
        dialogue: more context: what was written for the same image before.
    """
    shown = planned.image.context(with_boxes=planned.kind in teacher.boxes_for)
    context = f"{shown}\n\n{dialogue}" if dialogue else shown
    seed = f"{settings.seed}/{planned.image.id}"
    attempts = settings.attempts if teacher.varies else 1
    flaw, reply = SampleFlaw("not asked"), TeacherReply("")
    for attempt in range(attempts):
        try:
            reply = await teacher.write(TeacherRequest(planned.kind, context, seed, attempt))
        except NoReplyError as error:
            return Quarantined(planned.name, NO_REPLY, str(error), attempt + 1, "")
        pairs, found = _read(planned, reply, settings, context)
        if found is None:
            return _finish(planned, pairs, settings, teacher, reply, attempt)
        flaw = found
    return Quarantined(planned.name, flaw.reason, flaw.detail, attempts, reply.text)


def _read(
    planned: Planned, reply: TeacherReply, settings: GenerationSettings, context: str
) -> tuple[list[tuple[str, str]], SampleFlaw | None]:
    """The pairs of a reply, or why it cannot be used."""
    if reply.flaw:
        return [], SampleFlaw(reply.flaw, reply.text[:200])
    if not reply.text.strip():
        return [], SampleFlaw("empty reply")
    try:
        if planned.kind == "detail":
            question = _choice(planned, settings, "question").choice(question_list("detail"))
            pairs = [(question, parse_prose(reply.text))]
        else:
            pairs = parse_pairs(reply.text)
            if planned.kind == "reasoning" and len(pairs) > 1:
                raise ReplyError(f"one question was expected, and {len(pairs)} were found")
    except ReplyError as error:
        # A refusal hardly ever follows the format; what it is counts more than what it is not.
        refusal = find_sample_flaw([("?", reply.text)], context)
        if refusal and refusal.reason == "refusal":
            return [], refusal
        return [], SampleFlaw(BAD_FORMAT, f"{error}: {reply.text[:200]!r}")
    return pairs, find_sample_flaw(pairs, context, settings.longest_answer)


def _finish(
    planned: Planned,
    pairs: Sequence[tuple[str, str]],
    settings: GenerationSettings,
    teacher: Teacher,
    reply: TeacherReply,
    attempt: int,
) -> Sample:
    place = settings.picture
    if place == "random":
        place = _choice(planned, settings, "picture").choice(("first", "last"))
    record = to_json(to_conversation(planned.name, planned.image.files, pairs, place))
    origin = {"id": planned.name, "type": planned.kind, "teacher": teacher.name, "attempt": attempt}
    if planned.image.files:
        origin["picture"] = place
    return Sample.of(record, {**origin, **reply.source})


def to_conversation(
    name: str, files: Sequence[str], pairs: Sequence[tuple[str, str]], place: PicturePlace
) -> Conversation:
    """Pairs as turns; the pictures stand with the first question."""
    turns = []
    for number, (question, answer) in enumerate(pairs):
        content = ask(question, None if number else files, picture_first=place == "first")
        turns += [human(*content), gpt(answer)]
    return Conversation(name, tuple(turns))


def dialogue_text(sample: Sample) -> str:
    """A sample's dialogue as a teacher may be shown it."""
    turns = [turn["value"].replace("<image>", "").strip() for turn in sample.record["conversations"]]
    if sample.origin["type"] == "detail":
        return turns[1]
    return format_pairs(list(zip(turns[::2], turns[1::2], strict=True)))


def _choice(planned: Planned, settings: GenerationSettings, what: str) -> random.Random:
    """A random stream of its own for each choice, so that one does not shift another."""
    return random.Random(f"generate/{settings.seed}/{planned.name}/{what}")
