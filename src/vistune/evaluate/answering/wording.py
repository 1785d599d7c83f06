"""How a peer is asked: its processor's chat template, or the form that its kind is known for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vistune.errors import VistuneError

_QUESTION, _IMAGE = "{question}", "{image}"

# Of kinds whose checkpoints come without a chat template: what transformers' page on each asks them with.
# The processors of BLIP-2 and InstructBLIP place the picture themselves.
_PLAIN = {
    "llava": f"USER: {_IMAGE}\n{_QUESTION} ASSISTANT:",
    "blip-2": f"Question: {_QUESTION} Answer:",
    "instructblip": _QUESTION,
    "paligemma": f"{_IMAGE}answer en {_QUESTION}",
}


@dataclass(frozen=True)
class Wording:
    """Writes the prompt of a question.

    Attributes:
        source: whose form it is, for the record.
        plain: a text with ``{question}`` and perhaps ``{image}``; None where the chat template is used.
    """

    processor: Any
    source: str
    plain: str | None = None

    @property
    def chat(self) -> bool:
        return self.plain is None

    def write(self, question: str, pictured: bool) -> str:
        """The prompt, its picture's token, where there is a picture, before the words."""
        if self.plain is not None:
            image = str(getattr(self.processor, "image_token", "")) if pictured else ""
            form = self.plain if pictured else self.plain.replace(f"{_IMAGE}\n", "")
            return form.replace(_IMAGE, image).replace(_QUESTION, question)
        content = [{"type": "image"}] * pictured + [{"type": "text", "text": question}]
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return prompt

    def picture_token_in(self, text: str) -> str | None:
        """The picture's token, where a question's words hold it: it would be read as one more picture."""
        token = getattr(self.processor, "image_token", None)
        token = getattr(token, "content", token)
        return token if token and token in text else None


def find_wording(name: str, processor: Any, config: Any, prompt: str | None) -> Wording:
    """The form given, else the processor's chat template, else what ``config.model_type`` is known for.

    Raises:
        VistuneError: there is none of the three, or one that loses the question or the picture.
    """
    if prompt is not None:
        if _QUESTION not in prompt:
            raise VistuneError(
                f"prompt {prompt!r}: it has no place for the question. Write {_QUESTION} there."
            )
        return Wording(processor, "given", prompt)
    if getattr(processor, "chat_template", None):
        return _checked(name, Wording(processor, "chat template of the checkpoint"))
    if config.model_type not in _PLAIN:
        raise VistuneError(
            f"{name}: its processor has no chat template, and no form of a prompt is known for a "
            f"{config.model_type}. Give one, as its authors write it: text with {_QUESTION} and {_IMAGE}."
        )
    return Wording(processor, f"usual form of {config.model_type}", _PLAIN[config.model_type])


def _checked(name: str, wording: Wording) -> Wording:
    """A template made for text alone leaves the picture out, or writes parts as Python prints a list."""
    mark = "QuestionMark"
    shown, unshown = (wording.write(mark, pictured) for pictured in (True, False))
    if shown.count(mark) != 1 or "'type'" in shown or shown == unshown:
        raise VistuneError(
            f"{name}: its chat template has no place for a picture and a question; it writes {shown!r}. "
            f"Give a prompt: text with {_QUESTION} and {_IMAGE}."
        )
    return wording
