"""The tokenizer's own chat template, read into a :class:`Template`.

It is rendered with marks in the place of contents, and split at the marks. Contents never pass through Jinja,
so no content can change the layout. What cannot be read that way is refused: a template that writes an
earlier turn differently once another follows, or that puts into an answer what its prompt does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER, Speaker
from vistune.errors import VistuneError
from vistune.template.layout import TEMPLATES, Template

OWN = "tokenizer"
TEMPLATE_NAMES = (*sorted(TEMPLATES), OWN)

_MARKS = tuple(f"{kind}{number}Mark" for number in (1, 2, 3) for kind in ("Question", "Answer"))
_PAD = " \n "
_SEEN = "{#- vistune: pictures and dates -#}"
_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"  # Llama's own, so that no day differs


def find_template(name: str, tokenizer: Any = None) -> Template:
    """The template of that name.

    Args:
        tokenizer: whose own chat template ``tokenizer`` is; the other templates need none.

    Raises:
        VistuneError: there is none, or the tokenizer's own is missing or cannot be read.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    if name != OWN:
        raise VistuneError(f"Unknown template {name!r}. Choose one of: {', '.join(TEMPLATE_NAMES)}.")
    if not getattr(tokenizer, "chat_template", None):
        what = "no tokenizer is given" if tokenizer is None else "the LLM's tokenizer has no chat template"
        raise VistuneError(f"template `tokenizer`: {what}. Choose one of: {', '.join(sorted(TEMPLATES))}.")
    return _Reader(tokenizer).read()


class _Reader:
    """Reads one tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._source = self._wrap(tokenizer.get_chat_template())

    def read(self) -> Template:
        whole = self._render(_MARKS)
        opening, *between, end = self._split(whole)
        to_answer, to_question = between[0], between[1]
        pairs = [_MARKS[i : i + 2] for i in (0, 2, 4)]
        for count in (1, 2, 3):
            said = to_question.join(f"{question}{to_answer}{answer}" for question, answer in pairs[:count])
            if self._render(_MARKS[: 2 * count]) != f"{opening}{said}{end}":
                raise _refusal("it writes a turn differently once another follows")
        if not to_question.startswith(end):
            raise _refusal("an answer ends differently once a question follows")
        gpt = self._generation_prompt(opening, to_answer, to_question)
        trail, stop, after_stop = self._stop(end)
        return Template(
            OWN,
            opening,
            human=to_question.removeprefix(end),
            gpt=gpt,
            after_question="",
            first="",
            lead=to_answer.removeprefix(gpt),
            trail=trail,
            stop=stop,
            after_stop=after_stop,
            trims=self._trims(opening, to_answer, end),
            source=self._source,
        )

    def _generation_prompt(self, opening: str, to_answer: str, to_question: str) -> str:
        """What follows a question, up to where its answer begins."""
        question, answer, next_question = _MARKS[:3]
        asked = f"{opening}{question}"
        prompts = {
            self._render(_MARKS[:1]).removeprefix(asked),
            self._render(_MARKS[:3]).removeprefix(f"{asked}{to_answer}{answer}{to_question}{next_question}"),
        }
        gpt = prompts.pop()
        if prompts or not to_answer.startswith(gpt):
            raise _refusal("the prompt that it generates from is not how its answers begin")
        if to_answer.removeprefix(gpt).strip():
            raise _refusal(f"it puts {to_answer.removeprefix(gpt)!r} before an answer, which no prompt holds")
        return gpt

    def _stop(self, end: str) -> tuple[str, str, str]:
        """What ends an answer: the text before its STOP, the STOP, and what follows."""
        tokens = [str(token.content) for token in self._tokenizer.added_tokens_decoder.values()]
        places = [(end.index(token), -len(token)) for token in tokens if token and token in end]
        if places:
            start, length = min(places)
            return end[:start], end[start : start - length], end[start - length :]
        if not end:
            raise _refusal("nothing ends an answer")
        return "", end, ""

    def _trims(self, opening: str, to_answer: str, end: str) -> tuple[Speaker, ...]:
        """Whose words the template strips of outer white space."""
        question, answer = (f"{_PAD}{mark}{_PAD}" for mark in _MARKS[:2])
        written = self._render((question, answer))
        for trims in product((False, True), repeat=2):
            said = [
                text.strip() if trim else text for text, trim in zip((question, answer), trims, strict=True)
            ]
            if written == f"{opening}{said[0]}{to_answer}{said[1]}{end}":
                speakers: tuple[Speaker, Speaker] = ("human", "gpt")
                return tuple(speaker for speaker, trim in zip(speakers, trims, strict=True) if trim)
        raise _refusal("it rewrites the words of turns")

    def _split(self, text: str) -> list[str]:
        """The template's own texts, around the marks."""
        pieces = []
        for mark in _MARKS:
            if text.count(mark) != 1:
                raise _refusal(f"it writes a turn {text.count(mark)} times")
            piece, _, text = text.partition(mark)
            pieces.append(piece)
        return [*pieces, text]

    def _render(self, contents: Sequence[Any], source: str | None = None) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages,
                chat_template=source or self._source,
                tokenize=False,
                add_generation_prompt=len(messages) % 2 == 1,
            )
        except Exception as error:  # a template is a program of strangers: it may raise anything
            raise _refusal(f"it fails with {error}") from error
        return text

    def _wrap(self, source: str) -> str:
        """The template, able to take lists of images and text, and independent of the day."""
        if _SEEN in source:
            return source
        date = _DATE if "strftime_now" in source else ""
        content = "text.value" if self._takes_text(source) else "[{'type': 'text', 'text': text.value}]"
        return f"{_SEEN}{date}{_flatten(content)}{source}"

    def _takes_text(self, source: str) -> bool:
        """Whether contents may be plain text; some templates take only lists of parts."""
        try:
            return _MARKS[0] in self._render(_MARKS[:2], source)
        except VistuneError:
            return False


def _flatten(content: str) -> str:
    """Jinja that makes ``messages`` anew, each with its pictures before its text."""
    image = f"{IMAGE_PLACEHOLDER}\\n"
    return (
        "{%- set said = namespace(messages=[]) -%}"
        "{%- for message in messages -%}"
        "{%- set text = namespace(value='') -%}"
        "{%- if message['content'] is string -%}{%- set text.value = message['content'] -%}{%- else -%}"
        "{%- for part in message['content'] if part['type'] == 'image' -%}"
        f"{{%- set text.value = text.value + '{image}' -%}}"
        "{%- endfor -%}"
        "{%- for part in message['content'] if part['type'] == 'text' -%}"
        "{%- set text.value = text.value + part['text'] -%}"
        "{%- endfor -%}"
        "{%- endif -%}"
        f"{{%- set said.messages = said.messages + [dict(message, content={content})] -%}}"
        "{%- endfor -%}"
        "{%- set messages = said.messages %}\n"  # what follows is at the start of a line, as it was written
    )


def _refusal(why: str) -> VistuneError:
    return VistuneError(
        f"template `tokenizer`: the tokenizer's own chat template cannot be trained on exactly: {why}. "
        f"Choose one of: {', '.join(sorted(TEMPLATES))}."
    )
