"""The audit of a data set: one pass over its records, then the page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.conversation import Conversation, from_json
from vistune.data.audit.annotations import Annotated
from vistune.data.audit.duplicates import NearDuplicates
from vistune.data.audit.examine import DUPLICATE, Examined, examine
from vistune.data.audit.gallery import Choice
from vistune.data.audit.page import write_page
from vistune.data.audit.tally import Tally
from vistune.data.audit.vocabulary import Vocabulary
from vistune.data.records import FORMATS, Record, read_records, writing
from vistune.data.teachers.teacher import SAMPLE_TYPES
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems
from vistune.folders import refuse_used
from vistune.progress import say

_SECONDS_BETWEEN_NEWS = 10.0
_LISTED_GROUPS, _LISTED_IDS = 50, 20
UNTYPED = "untyped"


@dataclass(frozen=True)
class AuditSettings:
    """What to look at and what to show.

    Attributes:
        similarity: least Jaccard similarity of near-duplicates, over three-word shingles of the answers.
        gallery: records on the page, drawn from all; flagged ones come on top.
        flagged: most records on the page of each flag.
        seed: fixes which records are drawn.
    """

    similarity: float = 0.8
    gallery: int = 24
    flagged: int = 12
    seed: int = 0


@dataclass(frozen=True)
class Audit:
    """Where the page is, and the figures that ``audit.json`` holds."""

    page: Path
    figures: dict[str, Any]

    def summary(self) -> str:
        """The main figures in a few lines."""
        f = self.figures
        chair, leaks = f["invented_objects"]["by_type"].get("all"), f["leaks"]
        invented = "no answer is about an annotated picture"
        if chair:
            invented = (
                f"{chair['chair_i']:.1%} of objects ({chair['invented']:,} of {chair['objects']:,}), "
                f"in {chair['chair_s']:.1%} of answers ({chair['inventing']:,} of {chair['answers']:,})"
            )
        return "\n".join(
            (
                f"records          {f['records']['all']:,}, {f['answers']:,} answers",
                f"invented         {invented}",
                f"leaks            {leaks['answers']:,} in answers, {leaks['questions']:,} in questions",
                f"near-duplicates  {f['near_duplicates']['records']:,} records "
                f"in {f['near_duplicates']['groups']:,} groups",
                f"not judged       {f['records_not_joined']:,} records with pictures that are not annotated, "
                f"{f['records_without_picture']:,} without a picture, {f['malformed']:,} malformed",
            )
        )


def audit(
    data: Path,
    instances: Path,
    out: Path,
    captions: Path | None = None,
    images: Path | None = None,
    settings: AuditSettings | None = None,
) -> Audit:
    """Write ``out/audit.html``, ``audit.json``, ``flags.jsonl`` and ``problems.jsonl``.

    Args:
        data: a file in LLaVA's format; or a folder of ``vistune generate``, whose conversation, detail and
            reasoning files are taken.
        instances: the pictures' annotations, in COCO's format.
        captions: COCO captions; objects that they name count as present, too.
        images: the folder of pictures; without it the page shows none.

    Raises:
        VistuneError: an input cannot be read, ``out`` is in use, or there is no record.
    """
    settings = settings or AuditSettings()
    refuse_used(out)
    files = _files_of(data)
    if images is not None and not images.is_dir():
        raise VistuneError(f"{images}: no such folder of images.")
    auditor = _Auditor(settings, *_load(instances, captions))
    for path in files:
        auditor.read(path)
    figures = auditor.figures()
    if not figures["records"]["all"]:
        raise VistuneError(f"{data}: no usable record ({figures['malformed']} malformed).")
    figures = {
        "vistune": __version__,
        "data": [str(path) for path in files],
        "instances": str(instances),
        "captions": str(captions) if captions else None,
        "settings": asdict(settings),
        **figures,
    }
    try:
        with writing(out):
            return _write(out, figures, auditor, images)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # it was empty before: half an audit would be in the way
        raise


def _write(out: Path, figures: dict[str, Any], auditor: _Auditor, images: Path | None) -> Audit:
    out.mkdir(parents=True, exist_ok=True)
    (out / "flags.jsonl").write_text("".join(auditor.flags), encoding="utf-8")
    (out / "audit.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    write_problems(out / "problems.jsonl", auditor.problems)
    page = write_page(out / "audit.html", figures, auditor.choice.chosen(), auditor.annotated, images)
    return Audit(page, figures)


class _Auditor:
    """Looks at record after record."""

    def __init__(self, settings: AuditSettings, annotated: Annotated, vocabulary: Vocabulary) -> None:
        self.annotated, self._vocabulary = annotated, vocabulary
        self.choice = Choice(settings.flagged, settings.gallery, settings.seed)
        self.problems = list(annotated.problems)
        self.flags: list[str] = []  # JSON lines
        self._duplicates = NearDuplicates(settings.similarity, settings.seed)
        self._tally, self._count, self._malformed = Tally(), 0, 0
        self._missing: dict[str, int] = {}  # pictures without annotation -> records

    def read(self, path: Path) -> None:
        for place, conversation in self._conversations(path):
            self._count += 1
            record = self._examine(conversation, place, path)
            self._tally.add(record)
            flags = record.flags()
            group = self._duplicates.add(record.id, [exchange.answer for exchange in record.exchanges])
            if group:
                flags.append((DUPLICATE, f"resembles {group.ids[0]}"))
            self.choice.offer(self._count, record, flags)
            for flag, evidence in flags:
                row = {"id": record.id, "place": place, "flag": flag, "evidence": evidence}
                self.flags.append(json.dumps(row) + "\n")

    def figures(self) -> dict[str, Any]:
        groups = self._duplicates.groups()
        return {
            **self._tally.figures(),
            "near_duplicates": {
                "records": sum(len(group.ids) for group in groups),
                "groups": len(groups),
                "compared": self._duplicates.compared,
                "too_short": self._duplicates.left_out,
                "largest": [
                    {
                        "count": len(group.ids),
                        "ids": group.ids[:_LISTED_IDS],
                        "similarity": round(group.similarity, 3),
                        "excerpt": group.excerpt,
                    }
                    for group in groups[:_LISTED_GROUPS]
                ],
            },
            "malformed": self._malformed,
            "pictures_without_annotation": len(self._missing),
            "problems": count_by_reason(self.problems),
        }

    def _conversations(self, path: Path) -> Iterator[tuple[str, Conversation]]:
        last = time.monotonic()
        for record in read_records(path):
            if time.monotonic() - last >= _SECONDS_BETWEEN_NEWS:
                last = time.monotonic()
                say(f"auditing: {self._count} records")
            if isinstance(record, Record):
                try:
                    yield record.place, from_json(record.value)
                    continue
                except ValueError as error:
                    record = Problem(record.place, "malformed record", str(error))
            self._malformed += 1
            self.problems.append(record)

    def _examine(self, conversation: Conversation, place: str, path: Path) -> Examined:
        pictures = conversation.pictures
        missing = [file for file in pictures if not self.annotated.knows(file)]
        for file in missing:
            if file not in self._missing:
                self.problems.append(Problem(place, "picture without annotation", file))
            self._missing[file] = self._missing.get(file, 0) + 1
        present = self.annotated.present(pictures) if pictures and not missing else None
        kind = sample_type(conversation.id, path)
        return examine(conversation, place, kind, self._vocabulary, present)


def sample_type(name: str, path: Path) -> str:
    """``conversation``, ``detail`` or ``reasoning``, by the end of a record's id or by its file's name."""
    for kind in SAMPLE_TYPES:
        if name.endswith(f"-{kind}") or path.stem == kind:
            return kind
    return UNTYPED


def _load(instances: Path, captions: Path | None) -> tuple[Annotated, Vocabulary]:
    annotated = Annotated(instances)
    if not annotated.categories:
        raise VistuneError(f"{instances}: has no category; without one no object can be told.")
    vocabulary = Vocabulary(annotated.categories)
    if captions is not None:
        annotated.add_captions(captions, vocabulary.asserted)
    return annotated, vocabulary


def _files_of(data: Path) -> list[Path]:
    if not data.is_dir():
        return [data]
    found = [
        path for kind in SAMPLE_TYPES for ending in FORMATS if (path := data / f"{kind}.{ending}").exists()
    ]
    if not found:
        raise VistuneError(
            f"{data}: holds no {', '.join(f'{kind}.json' for kind in SAMPLE_TYPES)}. Name a file instead."
        )
    return found
