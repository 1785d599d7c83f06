"""One record: the objects that its answers name, the invented ones, the leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vistune.conversation import Conversation, questions_and_answers
from vistune.data.audit.questions import affirms, kind_of
from vistune.data.audit.vocabulary import Mention, Vocabulary
from vistune.data.leaks import find_leak

INVENTED, LEAK_IN_ANSWER, LEAK_IN_QUESTION, DUPLICATE = (
    "invented object",
    "leak in an answer",
    "leak in a question",
    "near-duplicate",
)
FLAGS = (INVENTED, LEAK_IN_ANSWER, LEAK_IN_QUESTION, DUPLICATE)


@dataclass(frozen=True)
class Exchange:
    """A question, its answer, and what is in them.

    Attributes:
        mentions: of the answer; where it only says "Yes" or a number, of the question.
        in_question: whether the mentions are the question's.
        invented: those of the asserted mentions of which no category is in the picture.
        question_leak, answer_leak: the words that leak the source.
    """

    question: str
    answer: str
    mentions: tuple[Mention, ...]
    in_question: bool
    invented: tuple[Mention, ...]
    question_leak: str | None
    answer_leak: str | None

    @property
    def asserted(self) -> list[Mention]:
        return [mention for mention in self.mentions if mention.stance == "asserted"]

    def words(self, mention: Mention) -> str:
        """How the mention is worded."""
        return (self.question if self.in_question else self.answer)[mention.start : mention.end]


@dataclass(frozen=True)
class Examined:
    """A record with what was found in it; ``joined``: its pictures are annotated."""

    id: str
    place: str
    type: str
    files: tuple[str, ...]
    joined: bool
    exchanges: tuple[Exchange, ...]

    def flags(self) -> list[tuple[str, str]]:
        """Each flag with its evidence; a flag may occur several times."""
        found = []
        for exchange in self.exchanges:
            for mention in exchange.invented:
                named = exchange.words(mention)
                meant = " or ".join(mention.categories)
                where = "asked, and affirmed by the answer" if exchange.in_question else "named"
                found.append((INVENTED, f"{meant}: {named!r} is {where}, not annotated"))
            for flag, leak in (
                (LEAK_IN_QUESTION, exchange.question_leak),
                (LEAK_IN_ANSWER, exchange.answer_leak),
            ):
                if leak:
                    found.append((flag, leak))
        return found


def examine(
    conversation: Conversation, place: str, kind: str, vocabulary: Vocabulary, present: set[str] | None
) -> Examined:
    """Look at one record.

    Args:
        kind: its sample type.
        present: categories in its pictures; None where that is not known, and nothing counts as invented.
    """
    pairs = questions_and_answers(conversation)
    exchanges = tuple(_examine(question, answer, vocabulary, present) for question, answer in pairs)
    files = tuple(conversation.pictures)
    return Examined(conversation.id, place, kind, files, present is not None, exchanges)


def _examine(question: str, answer: str, vocabulary: Vocabulary, present: set[str] | None) -> Exchange:
    mentions = vocabulary.find(answer)
    in_question = not mentions and affirms(question, answer)
    if in_question:
        asked = vocabulary.find(question.rstrip("? \n"))
        if kind_of(question) == "count":  # "How many dogs are near the tree?": the first is counted
            asked = asked[:1]
        mentions = asked
    invented: Sequence[Mention] = ()
    if present is not None:
        invented = [m for m in mentions if m.stance == "asserted" and present.isdisjoint(m.categories)]
    return Exchange(
        question,
        answer,
        tuple(mentions),
        in_question,
        tuple(invented),
        find_leak(question),
        find_leak(answer),
    )
