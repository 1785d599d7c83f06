"""Annotated images -> instruction data of three types, in LLaVA's format.

Nothing is remembered here between runs: a teacher that costs money keeps its replies in a ledger, so the
same command, run again, goes through all samples and asks only for what is missing.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.conversation import to_json
from vistune.data.generation.plan import GenerationSettings, Plan, Planned, make_plan
from vistune.data.generation.sample import (
    NO_REPLY,
    Quarantined,
    Sample,
    dialogue_text,
    make_sample,
    to_conversation,
)
from vistune.data.records import write_records, writing
from vistune.data.sources.annotated import AnnotatedImage, Annotations
from vistune.data.teachers.teacher import SampleType, Teacher
from vistune.data.text import excerpt
from vistune.errors import VistuneError, count_by_reason, write_problems
from vistune.folders import claim
from vistune.llm.planning import PendingError
from vistune.parallel import in_parallel, run_interruptibly
from vistune.progress import meter
from vistune.prompts import question_list, question_list_digest

ALIGNMENT = "alignment"  # stage 1: one record for each caption
SETTINGS, PROVENANCE = "settings.json", "provenance.json"
_QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class Generated:
    """How much data there is.

    Attributes:
        set_aside: input that could not be used, by reason.
        quarantined: samples that could not be made, by reason.
        pending: samples that still wait for a reply.
        stopped: why the run ended early; what it had by then is written.
    """

    counts: dict[str, int]
    set_aside: dict[str, int]
    quarantined: dict[str, int]
    pending: int = 0
    stopped: VistuneError | None = None


@dataclass
class _Work:
    """Samples as they come: one of Sample, Quarantined, or nothing yet."""

    results: dict[str, Sample | Quarantined] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    failed: int = 0  # of the results

    def add(self, name: str, result: Sample | Quarantined) -> None:
        self.results[name] = result
        self.failed += isinstance(result, Quarantined)


def generate(
    annotations: Annotations, teacher: Teacher, out: Path, settings: GenerationSettings | None = None
) -> Generated:
    """Write the samples of each type and ``alignment``, ``quarantine.jsonl``, ``set_aside.jsonl``,
    ``provenance.jsonl`` (a line for each sample) and ``provenance.json``.

    A folder that holds a run of the same settings is brought up to date.

    Raises:
        VistuneError: ``out`` holds something else, or no sample at all could be made.
    """
    settings = settings or GenerationSettings()
    plans = make_plan(annotations.images, settings)
    asked = {"teacher": teacher.describe(), "annotations": annotations.digest(), **asdict(settings)}
    claim(out, SETTINGS, json.loads(json.dumps(asked)))
    work, stopped = _Work(), None
    try:
        run_interruptibly(_make_all(plans, teacher, settings, work))
    except VistuneError as error:
        stopped = error
    made = {kind: list(_chosen(plan, work, Sample)) for kind, plan in plans.items()}
    failed = [row for plan in plans.values() for row in _chosen(plan, work, Quarantined)]
    if not any(made.values()):
        _nothing(out, failed, work, stopped)
    with writing(out):
        return _write(out, annotations, teacher, settings, made, failed, len(work.pending), stopped)


async def _make_all(
    plans: dict[SampleType, Plan], teacher: Teacher, settings: GenerationSettings, work: _Work
) -> None:
    phases = [list(plans.values())]
    if settings.reasoning_sees_dialogue and "reasoning" in plans:
        phases = [[plan for kind, plan in plans.items() if kind != "reasoning"], [plans["reasoning"]]]
    with meter("writing instruction data", sum(plan.wanted for plan in plans.values())) as progress:

        async def make(planned: Planned) -> None:
            await _make(planned, teacher, settings, work)
            progress.advance(f"{work.failed} quarantined" if work.failed else "")

        try:
            for phase in phases:
                # Where samples fail, the next candidates are made in their place.
                while batch := [planned for plan in phase for planned in _next(plan, work)]:
                    await in_parallel(batch, make, teacher.in_flight)
        finally:
            await teacher.close()


def _next(plan: Plan, work: _Work) -> list[Planned]:
    """Candidates to make now, so that as many as wanted are good if all of them are."""
    good = sum(isinstance(work.results.get(planned.name), Sample) for planned in plan.candidates)
    waiting = sum(planned.name in work.pending for planned in plan.candidates)
    fresh = [p for p in plan.candidates if p.name not in work.results and p.name not in work.pending]
    return fresh[: plan.wanted - good - waiting]


async def _make(planned: Planned, teacher: Teacher, settings: GenerationSettings, work: _Work) -> None:
    try:
        dialogue = ""
        if settings.reasoning_sees_dialogue and planned.kind == "reasoning":
            dialogue = _earlier(planned, work)
        work.add(planned.name, await make_sample(planned, teacher, settings, dialogue))
    except PendingError:
        work.pending.add(planned.name)


def _earlier(planned: Planned, work: _Work) -> str:
    """What was written for the same image."""
    names = [f"{planned.image.id}-{kind}" for kind in ("conversation", "detail")]
    if waiting := work.pending.intersection(names):
        raise PendingError(min(waiting))
    samples = [work.results.get(name) for name in names]
    return "\n\n".join(dialogue_text(sample) for sample in samples if isinstance(sample, Sample))


def _chosen(plan: Plan, work: _Work, kind: type) -> Iterator[Any]:
    """Results of one kind, in the plan's order."""
    for planned in plan.candidates:
        if isinstance(result := work.results.get(planned.name), kind):
            yield result


def _nothing(out: Path, failed: Sequence[Quarantined], work: _Work, stopped: VistuneError | None) -> None:
    """No sample was made: an error that shows where to look, unless replies are still awaited."""
    if failed:
        _write_quarantine(out, failed)
    elif not work.pending and [path.name for path in out.iterdir()] == [SETTINGS]:
        (out / SETTINGS).unlink()  # nothing was said at all: the folder stays free
    if stopped:
        raise stopped
    if not work.pending:
        reasons = Counter(row.reason for row in failed).most_common()
        raise VistuneError(
            f"{out}: no sample could be made of {len(failed)} "
            f"({', '.join(f'{count} x {reason}' for reason, count in reasons)}); see {out / _QUARANTINE}. "
            f"The first, {failed[0].id}: {failed[0].reason}: {excerpt(failed[0].detail)}."
        )


def _write_quarantine(out: Path, failed: Sequence[Quarantined]) -> None:
    write_records(out / _QUARANTINE, map(asdict, failed))


def _write(
    out: Path,
    annotations: Annotations,
    teacher: Teacher,
    settings: GenerationSettings,
    made: dict[SampleType, list[Sample]],
    failed: Sequence[Quarantined],
    pending: int,
    stopped: VistuneError | None,
) -> Generated:
    files: dict[str, Iterable[dict[str, Any]]] = {
        kind: (sample.record for sample in samples) for kind, samples in made.items()
    }
    files[ALIGNMENT] = _alignment(annotations.images, settings.seed)
    counts = {
        name: write_records(out / f"{name}.{settings.file_format}", records)
        for name, records in files.items()
    }
    origins = (sample.origin for samples in made.values() for sample in samples)
    write_records(out / "provenance.jsonl", origins)
    _write_quarantine(out, failed)
    write_problems(out / "set_aside.jsonl", annotations.problems)
    quarantined = dict(Counter(row.reason for row in failed).most_common())
    result = Generated(counts, count_by_reason(annotations.problems), quarantined, pending, stopped)
    provenance = {
        "vistune": __version__,
        "teacher": teacher.name,
        **teacher.describe(),
        "seed": settings.seed,
        "images": len(annotations.images),
        "question_lists": {name: question_list_digest(name) for name in ("detail", "brief")},
        "counts": result.counts,
        "set_aside": result.set_aside,
        "quarantined": result.quarantined,
        "pending": pending,
        "complete": not pending and stopped is None and NO_REPLY not in quarantined,
    }
    (out / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return result


def _alignment(images: Iterable[AnnotatedImage], seed: int) -> Iterator[dict[str, Any]]:
    """Stage 1's pairs: each caption answers a brief-description question (paper Table 11)."""
    rng = random.Random(f"alignment/{seed}")
    for image in images:
        if len(image.files) == 1:
            for number, caption in enumerate(image.captions):
                pairs = [(rng.choice(question_list("brief")), caption)]
                yield to_json(to_conversation(f"{image.id}-caption-{number}", image.files, pairs, "first"))


def read_provenance(folder: Path) -> dict[str, Any]:
    """What :func:`generate` recorded about the data in ``folder``."""
    record: dict[str, Any] = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    return record
