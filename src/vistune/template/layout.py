"""How conversations are written: the templates, and a conversation's segments by one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from vistune.conversation import Content, Picture, Speaker, Turn


@dataclass(frozen=True)
class Template:
    """How turns are written (the paper's Table 2 and its successors).

    Special tokens in these texts are meant as such; in the words of users and data they never are.

    Attributes:
        system: said once, before the first turn.
        human, gpt: what precedes a question, and an answer.
        after_question: what separates a question from its answer's role.
        first: what precedes the first question, where that is not ``human``.
        lead, trail: what an answer begins and ends with; trained on, and no part of a prompt.
        stop: text of the STOP, or None for the tokenizer's end-of-sequence token.
        after_stop: what follows a STOP; not trained on.
        restart: whether each later pair begins anew with the tokenizer's BOS, where it has one.
        questions: whether the words of questions are written; without them a picture is followed by its
            caption at once.
        trims: whose words lose the white space around them.
        source: the chat template (Jinja) that this is read from.
    """

    name: str
    system: str
    human: str
    gpt: str
    after_question: str
    first: str | None = None
    lead: str = ""
    trail: str = ""
    stop: str | None = None
    after_stop: str = ""
    restart: bool = False
    questions: bool = True
    trims: tuple[Speaker, ...] = ()
    source: str | None = None

    @property
    def texts(self) -> list[str]:
        """All that the template itself writes."""
        prompt = (self.system, self.first, self.human, self.after_question, self.gpt, self.after_stop)
        return [text for text in (*prompt, self.lead, self.trail, self.stop) if text]


_CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_CURIOUS_HUMAN = _CURIOUS_USER.replace("user", "human")
_VISION_ASSISTANT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)

TEMPLATES = {
    template.name: template
    for template in (
        # A tiny model has no room for a system prompt.
        Template("short", "", "USER: ", "ASSISTANT:", after_question=" ", lead=" "),
        Template("vicuna_v1", f"{_CURIOUS_USER} ", "USER: ", "ASSISTANT:", after_question=" ", lead=" "),
        Template(
            "v0",
            f"{_CURIOUS_HUMAN}###",
            "Human: ",
            "Assistant:",
            after_question="###",
            lead=" ",
            stop="###",
        ),
        Template("plain", "", "", "", after_question="", stop="\n", questions=False),
        # Llama 2 took each pair for a text of its own; the system prompt is a part of the first question.
        Template(
            "llama_2",
            f"[INST] <<SYS>>\n{_VISION_ASSISTANT}\n<</SYS>>\n\n",
            "[INST] ",
            "",
            after_question=" [/INST]",
            first="",
            lead=" ",
            trail=" ",
            restart=True,
        ),
        Template(
            "chatml",
            "",
            "<|im_start|>user\n",
            "<|im_start|>assistant\n",
            after_question="<|im_end|>\n",
            stop="<|im_end|>",
            after_stop="\n",
        ),
    )
}


class Role(Enum):
    """What a segment is: how it becomes ids, and whether it is trained on."""

    PROMPT = "prompt"
    ANSWER = "answer"  # trained on
    STOP = "stop"  # trained on
    PICTURE = "picture"


class Segment(NamedTuple):
    """A piece of a conversation. ``own``: the template's words, not a user's or a data set's."""

    role: Role
    text: str = ""
    own: bool = False


@lru_cache(maxsize=256)
def _own(role: Role, text: str) -> Segment:
    """A segment of the template's words: they are the same in every conversation."""
    return Segment(role, text, own=True)


def segments(turns: Sequence[Turn], template: Template, begin: str, prompt: bool) -> Iterator[Segment]:
    """The segments of a conversation, in order; those without text are left out, but for STOP and pictures.

    Args:
        begin: the tokenizer's BOS as text, or nothing.
        prompt: the turns end with a question, and what precedes its answer follows.
    """
    pieces = [_own(Role.PROMPT, begin), _own(Role.PROMPT, template.system)]
    for number, turn in enumerate(turns):
        if turn.speaker == "human":
            pieces += _question(turn, template, begin, first=number == 0)
        else:
            pieces += _answer(turn, template)
    if prompt:
        pieces.append(_own(Role.PROMPT, template.gpt))
    return (piece for piece in pieces if piece.text or piece.role in (Role.STOP, Role.PICTURE))


def _question(turn: Turn, template: Template, begin: str, first: bool) -> Iterator[Segment]:
    if template.restart and not first:
        yield _own(Role.PROMPT, begin)
    human = template.first if first and template.first is not None else template.human
    yield _own(Role.PROMPT, human)
    for part in _trimmed(turn.content) if "human" in template.trims else turn.content:
        if isinstance(part, Picture):
            yield Segment(Role.PICTURE)
        elif template.questions:
            yield Segment(Role.PROMPT, part)
    yield _own(Role.PROMPT, template.after_question)


def _answer(turn: Turn, template: Template) -> Iterator[Segment]:
    yield _own(Role.PROMPT, template.gpt)
    yield _own(Role.ANSWER, template.lead)
    yield Segment(Role.ANSWER, turn.text.strip() if "gpt" in template.trims else turn.text)
    yield _own(Role.ANSWER, template.trail)
    yield _own(Role.STOP, template.stop or "")
    yield _own(Role.PROMPT, template.after_stop)


def _trimmed(content: Content) -> Content:
    """The content as ``str.strip`` leaves it, were it one text."""
    parts = list(content)
    for edge, strip in ((0, str.lstrip), (-1, str.rstrip)):
        while parts and isinstance(part := parts[edge], str):
            parts[edge] = strip(part)
            if parts[edge]:
                break
            del parts[edge]
    return tuple(parts)
