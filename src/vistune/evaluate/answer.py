"""A checkpoint's answers to the questions of a LLaVA-format file, each asked alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vistune.conversation import Conversation, ask, human, questions_and_answers
from vistune.data.pixels import PixelStore
from vistune.data.teachers.scripted import kind_of_question
from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import complete
from vistune.progress import meter

BATCH_SIZE = 64
MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Question:
    id: str
    image: str
    kind: str
    question: str
    reference: str


@dataclass(frozen=True)
class Answer:
    """A question and what the model said to it."""

    id: str
    image: str
    kind: str
    question: str
    reference: str
    answer: str
    correct: bool


def questions_of(conversations: Sequence[Conversation]) -> list[Question]:
    """Every question about a picture, as one of its own; ``kind`` is ``other`` where it is none of ours."""
    return [
        Question(
            f"{conversation.id}-{number}",
            conversation.pictures[0],
            kind_of_question(question) or "other",
            question,
            reference,
        )
        for conversation in conversations
        if conversation.pictures
        for number, (question, reference) in enumerate(questions_and_answers(conversation))
    ]


def answer_all(
    checkpoint: Checkpoint, questions: Sequence[Question], images: Path | None, out: Path
) -> list[Answer]:
    """Answer greedily, in batches; answers that ``out`` already holds are not computed again.

    Args:
        images: the folder of pictures; None asks the same questions without them.
        out: a JSON-lines file, one answer a line, in the order of ``questions``.
    """
    known = {answer.id: answer for answer in read_answers(out)} if out.exists() else {}
    left = [question for question in questions if question.id not in known]
    groups = [left[i : i + BATCH_SIZE] for i in range(0, len(left), BATCH_SIZE)]
    pixels = PixelStore(images, checkpoint.preprocess) if images else None
    task = "answering" if images else "answering without the picture"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(_line(answer) for answer in known.values()), encoding="utf-8")
    with open(out, "a", encoding="utf-8") as file, meter(task, len(groups)) as progress:
        for group in groups:
            for answer in _answer_batch(checkpoint, group, pixels):
                known[answer.id] = answer
                file.write(_line(answer))
            file.flush()
            progress.advance()
    return [known[question.id] for question in questions]


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a JSON-lines file; a last line that was cut short is left out."""
    with open(path, encoding="utf-8", newline="\n") as lines:
        yield from (Answer(**json.loads(line)) for line in lines if line.endswith("\n"))


def _line(answer: Answer) -> str:
    return json.dumps(asdict(answer), ensure_ascii=False) + "\n"


def _answer_batch(
    checkpoint: Checkpoint, group: Sequence[Question], pixels: PixelStore | None
) -> Iterator[Answer]:
    prompts = [
        checkpoint.renderer.encode_prompt(
            Conversation(item.id, (human(*ask(item.question, item.image if pixels else None)),))
        ).ids
        for item in group
    ]
    pictures = pixels.load([item.image for item in group]).to(checkpoint.model.device) if pixels else None
    for item, ids in zip(
        group, complete(checkpoint.model, prompts, pictures, checkpoint.stop, MAX_NEW_TOKENS), strict=True
    ):
        text = checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip()
        yield Answer(**asdict(item), answer=text, correct=exact_match(text, item.reference))


def exact_match(answer: str, reference: str) -> bool:
    """Equal but for case, outer white space and a final full stop."""
    return _normal(answer) == _normal(reference)


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
