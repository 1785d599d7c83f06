"""Conversation -> token ids and labels, in one pass; one renderer for training and inference.

A conversation becomes *segments*: the template's words, a user's or a data set's, STOP, pictures. Neighbours
of one role are joined, each becomes ids by itself, and its labels are decided there and then, so ids and
labels cannot drift apart. A prompt is the same segments, up to where the answer begins: training and
inference see the same ids.

The ids are those of the rendered text, BOS and all, as the tokenizer makes them; except that the text is cut
where an answer or a STOP begins and ends, and that nobody's words are read as a special token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vistune.conversation import Conversation, Turn
from vistune.template.encoded import Answered, Encoded, Folded
from vistune.template.jinja import chat_template
from vistune.template.layout import Role, Segment, Template, segments
from vistune.template.words import Words


class _Run(NamedTuple):
    """A text that becomes ids as one, or one id."""

    role: Role
    content: str | int


class Renderer:
    """Writes conversations with one template, one tokenizer and one number of patches a picture.

    Args:
        tokenizer: any tokenizer of transformers.
        image_token: id of the token that holds a picture's place.
        patches: how many such tokens a picture takes.

    Raises:
        VistuneError: the tokenizer cannot write texts one by one.
    """

    def __init__(self, template: Template, tokenizer: Any, image_token: int, patches: int) -> None:
        self.template, self.tokenizer = template, tokenizer
        self.image_token, self.patches = image_token, patches
        self._words = Words(tokenizer, image_token, template.texts)
        self._eos: int = tokenizer.eos_token_id
        self._split: dict[str, list[str | int]] = {}
        self._begin = self._words.begin
        if self._begin and template.system.startswith(self._begin):
            self._begin = ""  # the template writes it

    @property
    def stop(self) -> list[int]:
        """The ids that end an answer."""
        answer = [Segment(Role.ANSWER, "x"), Segment(Role.STOP, self.template.stop or "", own=True)]
        *_, stop = self._runs(answer)
        return (
            [stop.content]
            if isinstance(stop.content, int)
            else self._words.encode([stop.content])[stop.content]
        )

    @property
    def chat_template(self) -> str:
        """The same layout as a Jinja chat template, BOS included; to be stored with the weights."""
        return chat_template(self.template, self._begin)

    def encode(self, conversation: Conversation) -> Encoded:
        """Ids and labels of a whole conversation."""
        return self.encode_all([conversation])[0]

    def encode_all(self, conversations: Iterable[Conversation]) -> list[Encoded]:
        """The same as :meth:`encode` of each one, with one call of the tokenizer for all."""
        return [folded.unfold() for folded in self.fold_all(conversations)]

    def fold_all(self, conversations: Iterable[Conversation]) -> list[Folded]:
        """As :meth:`encode_all`, pictures left folded: where many samples are prepared."""
        return self._encode([(conversation, False) for conversation in conversations])

    def encode_prompt(self, conversation: Conversation) -> Encoded:
        """Ids of a conversation that ends with a question, up to where the answer begins.

        Raises:
            ValueError: the conversation does not end with a question.
        """
        if not conversation.turns or conversation.turns[-1].speaker != "human":
            raise ValueError("a prompt must end with a question")
        return self._encode([(conversation, True)])[0].unfold()

    def _encode(self, wanted: Sequence[tuple[Conversation, bool]]) -> list[Folded]:
        written = [self._write(conversation.turns, prompt) for conversation, prompt in wanted]
        texts = (run.content for runs in written for run in runs if isinstance(run.content, str))
        ids_of = self._words.encode(texts)
        return [
            self._assemble(runs, ids_of, conversation.pictures)
            for runs, (conversation, _) in zip(written, wanted, strict=True)
        ]

    def _write(self, turns: Sequence[Turn], prompt: bool) -> list[_Run]:
        return self._runs(segments(turns, self.template, self._begin, prompt))

    def _runs(self, pieces: Iterable[Segment]) -> list[_Run]:
        """Join neighbouring texts of one role; the tokenizer's space before them is written out."""
        runs: list[_Run] = []
        texts: list[str] = []  # of one role, not yet joined
        role = Role.PROMPT
        previous: str | int | None = None
        for segment in pieces:
            for atom in self._atoms(segment):
                if isinstance(atom, int):
                    if texts:
                        runs.append(_Run(role, "".join(texts)))
                        texts = []
                    runs.append(_Run(segment.role, atom))
                    previous = atom
                    continue
                # Only a special token swallows white space: after text, the template's words stay.
                text = self._words.after(previous, atom) if segment.own and not texts else atom
                if not text:
                    continue
                if texts and segment.role is role:
                    texts.append(text)
                else:
                    if texts:
                        runs.append(_Run(role, "".join(texts)))
                    texts, role = [self._words.space(previous) + text], segment.role
                previous = text
        if texts:
            runs.append(_Run(role, "".join(texts)))
        return runs

    def _atoms(self, segment: Segment) -> list[str | int]:
        if segment.role is Role.PICTURE:
            return [self.image_token]
        if segment.role is Role.STOP and not segment.text:
            return [self._eos]
        if not segment.own:
            return [segment.text]
        if segment.text not in self._split:
            self._split[segment.text] = self._words.split(segment.text)
        return self._split[segment.text]

    def _assemble(self, runs: list[_Run], ids_of: Mapping[str, list[int]], files: list[str]) -> Folded:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        places: list[int] = []
        answered: list[Answered] = []
        for role, content in runs:
            start = len(ids)
            if isinstance(content, str):
                ids += ids_of[content]
            else:
                ids.append(content)
            if role is Role.PICTURE:
                places.append(start)
            elif role is not Role.PROMPT and len(ids) > start:
                if spans and spans[-1][1] == start:
                    start = spans.pop()[0]
                spans.append((start, len(ids)))
            if role is Role.STOP:
                answered.append(Answered(len(ids), len(places)))
        return Folded(ids, spans, places, files, answered, self.patches)
