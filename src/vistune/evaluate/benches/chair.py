"""CHAIR: objects that descriptions invent (Rohrbach et al. 2018, "Object Hallucination in Image Captioning").

Objects are found by COCO's categories and a table of synonyms of our own (``data/audit/objects.yaml``).
Unlike the paper's script we count only what a description asserts: "no dogs" and "there might be a dog" name
none. So our figures compare with each other, and with published ones only roughly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vistune.data.audit.annotations import Annotated
from vistune.data.audit.vocabulary import Vocabulary
from vistune.data.json_stream import stream_lists
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Sheet
from vistune.prompts import question_list
from vistune.question import Question, Questions

_LISTS = ("images", "annotations", "categories")


class Chair:
    """One description for each picture of a COCO instances file.

    ``CHAIRs``: descriptions that name an invented object, of all. ``CHAIRi``: mentions of invented objects,
    of all mentions. ``recall``: objects in the pictures that are named, of all.

    A question's id is its picture's in the file, its references are the categories that are in the picture.
    """

    name = "chair"
    title = "CHAIR"
    takes = frozenset({"data", "captions"})
    names: tuple[str, ...] = ("CHAIRs", "CHAIRi", "recall")
    lower_is_better = frozenset({"CHAIRs", "CHAIRi"})
    neither_is_better: frozenset[str] = frozenset()
    most = 512
    headline = "CHAIRi"
    judged = False

    def load(self, files: BenchFiles) -> Questions:
        """The first of our requests for a detailed description, once for each picture.

        Objects that ``files.captions`` name are in the picture, too, as in the paper.

        Raises:
            VistuneError: a file is missing or not COCO's format, or has no picture or no category.
        """
        if files.data is None:
            raise VistuneError("chair needs --data FILE: instances in COCO's format.")
        annotated = _annotated(files.data, files.captions)
        text, details = question_list("detail")[0], {"categories": annotated.categories}
        questions = [
            Question(name, text, file, tuple(sorted(annotated.present([file]))), details=details)
            for name, file in _pictures(files.data).items()
        ]
        if not questions:
            raise VistuneError(f"{files.data}: has no picture.")
        return Questions(questions, annotated.problems)

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        """``read`` holds the objects that are named; ``note``, the invented ones."""
        vocabulary = Vocabulary(questions[0].details["categories"] if questions else ())
        answers = {row.id: row.text for row in sheet.rows}
        return [_outcome(q, answers[q.id], vocabulary) for q in questions if q.id in answers]


def _outcome(question: Question, answer: str, vocabulary: Vocabulary) -> Outcome:
    present = set(question.references)
    named = [mention.categories for mention in vocabulary.find(answer) if mention.stance == "asserted"]
    invented = [categories for categories in named if present.isdisjoint(categories)]
    seen = present & {name for categories in named for name in categories}
    sums = {
        "CHAIRs": (float(bool(invented)), 1.0),
        "CHAIRi": (float(len(invented)), float(len(named))),
        "recall": (float(len(seen)), float(len(present))),
    }
    blank = not answer.strip()
    return Outcome(
        question.id,
        question.text,
        answer,
        {name: pair for name, pair in sums.items() if pair[1]},
        question.image,
        question.references,
        question.kind,
        None if blank else _listed(named),
        None if blank else not invented,
        "empty answer" if blank else f"invented: {_listed(invented)}" if invented else "",
    )


def _listed(mentions: Sequence[tuple[str, ...]]) -> str:
    """Each object once; where a word may mean several (a bike), all of them."""
    return ", ".join(dict.fromkeys(" or ".join(categories) for categories in mentions))


def _annotated(instances: Path, captions: Path | None) -> Annotated:
    annotated = Annotated(instances)
    if not annotated.categories:
        raise VistuneError(f"{instances}: has no category; without one no object can be told.")
    if captions is not None:
        annotated.add_captions(captions, Vocabulary(annotated.categories).asserted)
    return annotated


def _pictures(instances: Path) -> dict[str, str]:
    """File names by id, in the file's order."""
    # All lists are streamed: one that is not asked for would be held whole.
    items = stream_lists(instances, _LISTS, "COCO's format")
    return {str(item.value["id"]): str(item.value["file_name"]) for item in items if item.list == "images"}


BENCHES = (Chair(),)
