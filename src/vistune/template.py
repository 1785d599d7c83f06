"""Conversation -> token ids and labels, in one pass; one renderer for training and inference.

A conversation becomes *segments*: text that is trained on or not, STOP, pictures. Each segment is turned
into ids by itself and its label is decided there and then, so ids and labels cannot drift apart. A prompt
is the same segments, cut before the answer: training and inference see the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vistune.conversation import IGNORE_INDEX, IMAGE_PLACEHOLDER, Conversation, Picture, Turn
from vistune.errors import VistuneError


@dataclass(frozen=True)
class Template:
    """How turns are written (the paper's Table 2 and its successors).

    Attributes:
        system: said once, before the first turn.
        human, gpt: what precedes a question, and an answer.
        after_question: what separates a question from its answer's role.
        stop: text of the STOP, or None for the tokenizer's end-of-sequence token.
        after_stop: what follows a STOP; not trained on.
        questions: whether the words of questions are written; without them a picture is followed by its
            caption at once.
    """

    name: str
    system: str
    human: str
    gpt: str
    after_question: str
    stop: str | None = None
    after_stop: str = ""
    questions: bool = True


_CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_CURIOUS_HUMAN = _CURIOUS_USER.replace("user", "human")

TEMPLATES = {
    template.name: template
    for template in (
        # A tiny model has no room for a system prompt.
        Template("short", "", "USER: ", "ASSISTANT:", after_question=" "),
        Template("vicuna_v1", f"{_CURIOUS_USER} ", "USER: ", "ASSISTANT:", after_question=" "),
        Template("v0", f"{_CURIOUS_HUMAN}###", "Human: ", "Assistant:", after_question="###", stop="###"),
        Template("plain", "", "", "", after_question="", stop="\n", questions=False),
    )
}


class Role(Enum):
    """What a segment is, and so how it becomes ids."""

    PROMPT = "prompt"
    ANSWER = "answer"  # trained on
    STOP = "stop"  # trained on
    PICTURE = "picture"


@dataclass(frozen=True)
class Segment:
    role: Role
    text: str = ""


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids. ``labels`` repeats the ids of answers and STOPs; elsewhere IGNORE_INDEX.

    Each picture stands as ``patches`` repetitions of the image token.
    """

    ids: list[int]
    labels: list[int]
    pictures: list[str]

    @property
    def supervised(self) -> int:
        """How many positions are trained on."""
        return sum(label != IGNORE_INDEX for label in self.labels)


def find_template(name: str) -> Template:
    """The template of that name.

    Raises:
        VistuneError: there is none.
    """
    if name not in TEMPLATES:
        raise VistuneError(f"Unknown template {name!r}. Choose one of: {', '.join(sorted(TEMPLATES))}.")
    return TEMPLATES[name]


class Renderer:
    """Writes conversations with one template, one tokenizer and one number of patches a picture.

    Args:
        tokenizer: any tokenizer of transformers.
        image_token: id of the token that holds a picture's place.
        patches: how many such tokens a picture takes.
    """

    def __init__(self, template: Template, tokenizer: Any, image_token: int, patches: int) -> None:
        self.template, self._tokenizer = template, tokenizer
        self._image_token, self._patches = image_token, patches

    def encode(self, conversation: Conversation) -> Encoded:
        """Ids and labels of a whole conversation."""
        return self._encode(list(_segments(conversation.turns, self.template)), conversation)

    def encode_prompt(self, conversation: Conversation) -> Encoded:
        """Ids of a conversation that ends with a question, up to where the answer begins."""
        turns = [*conversation.turns, Turn("gpt", ("",))]
        segments = list(_segments(tuple(turns), self.template))
        last_prompt = max(i for i, segment in enumerate(segments) if segment.role is Role.PROMPT)
        if self.template.after_stop:
            last_prompt = max(i for i in range(last_prompt) if segments[i].role is Role.PROMPT)
        return self._encode(segments[: last_prompt + 1], conversation)

    def _encode(self, segments: list[Segment], conversation: Conversation) -> Encoded:
        ids: list[int] = []
        labels: list[int] = []
        for segment in segments:
            piece = self._ids_of(segment)
            trained = segment.role in (Role.ANSWER, Role.STOP)
            ids += piece
            labels += piece if trained else [IGNORE_INDEX] * len(piece)
        return Encoded(ids, labels, conversation.pictures)

    def _ids_of(self, segment: Segment) -> list[int]:
        if segment.role is Role.PICTURE:
            return [self._image_token] * self._patches
        if segment.role is Role.STOP and self.template.stop is None:
            return [self._tokenizer.eos_token_id]
        # split_special_tokens: what users and data write is text, even where it spells a special token.
        ids: list[int] = self._tokenizer.encode(
            segment.text, add_special_tokens=False, split_special_tokens=True
        )
        return ids


def _segments(turns: tuple[Turn, ...], template: Template) -> Iterator[Segment]:
    """The conversation's segments; neighbouring prompt texts are one."""
    pending = template.system
    for turn in turns:
        if turn.speaker == "human":
            pending += template.human
            for part in turn.content:
                if isinstance(part, Picture):
                    if pending:
                        yield Segment(Role.PROMPT, pending)
                    yield Segment(Role.PICTURE)
                    pending = ""
                elif template.questions:
                    pending += part
            pending += template.after_question
        else:
            yield Segment(Role.PROMPT, pending + template.gpt)
            yield Segment(Role.ANSWER, f" {turn.text}" if template.gpt else turn.text)
            yield Segment(Role.STOP, template.stop or "")
            pending = template.after_stop
    if pending:
        yield Segment(Role.PROMPT, pending)


def chat_template(template: Template) -> str:
    """The same layout as a Jinja chat template, for transformers' processors and other engines."""
    image = IMAGE_PLACEHOLDER + ("\n" if template.questions else "")
    text = "{{ part['text'] }}" if template.questions else ""
    whole = "{{ message['content'] }}" if template.questions else ""
    stop = "{{ eos_token }}" if template.stop is None else f"{{{{ {template.stop!r} }}}}"
    lead = " " if template.gpt else ""
    return (
        f"{{{{ {template.system!r} }}}}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        f"{{{{ {template.human!r} }}}}"
        f"{{% if message['content'] is string %}}{whole}{{% else %}}"
        "{% for part in message['content'] if part['type'] == 'image' %}"
        f"{{{{ {image!r} }}}}"
        "{% endfor %}"
        f"{{% for part in message['content'] if part['type'] == 'text' %}}{text}{{% endfor %}}"
        "{% endif %}"
        f"{{{{ {template.after_question!r} }}}}"
        "{% else %}"
        f"{{{{ {template.gpt + lead!r} }}}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{{ message['content'][0]['text'] }}{% endif %}"
        f"{stop}{{{{ {template.after_stop!r} }}}}"
        "{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        f"{{{{ {template.gpt!r} }}}}"
        "{% endif %}"
    )
