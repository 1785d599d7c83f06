"""A split of ScienceQA as instruction data in LLaVA's format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from vistune.conversation import to_json
from vistune.data.images import Flaw
from vistune.data.pictures import Pictures
from vistune.data.records import file_format, write_records, writing
from vistune.data.scienceqa.problem import ScienceProblem
from vistune.data.scienceqa.problems import OFFICIAL_SIZES, UNUSABLE, Problems, read_problems
from vistune.data.scienceqa.prompt import ORDERS, STATED_ANSWER, Order, to_conversation
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems
from vistune.progress import track


def run_convert(
    problems: Path, splits: Path | None, split: str, order: str, images: Path, out: Path
) -> Iterator[str]:
    """Write ``out`` (JSON, JSON lines or Parquet, told by its ending); yields what is told at the end.

    Args:
        problems: the official ``problems.json``.
        splits: ``pid_splits.json``; None where the problems' own ``split`` is enough.
        order: ``lea`` or ``answer-first``.
        images: what holds ``SPLIT/ID/image.png``: a folder, or an archive of it.

    Raises:
        VistuneError: a file cannot be read or written, ``out`` exists, the order is unknown, or no problem
            can be used.
    """
    if order not in ORDERS:
        raise VistuneError(f"--order {order}: choose of {', '.join(ORDERS)}.")
    file_format(out)
    if out.exists():
        raise VistuneError(f"{out}: exists. Choose another --out, or remove it first.")
    found = read_problems(problems, splits, split)
    if all(problem.reduced for problem in found.problems):
        raise VistuneError(
            f"{problems}: is the reduced form, without lectures and solutions, which scoring alone can use. "
            "Give the official problems.json."
        )
    conversion = _Conversion(problems, found, cast(Order, order), Pictures(images))
    with writing(out):
        conversion.write(out)
    yield from conversion.told(out, split)


@dataclass
class _Conversion:
    path: Path
    found: Problems
    order: Order
    pictures: Pictures
    written: int = 0
    with_picture: int = 0
    set_aside: list[Problem] = field(default_factory=list)

    def write(self, out: Path) -> None:
        """Write both files; ``out`` appears when it is whole."""
        self.set_aside = list(self.found.set_aside)
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f"{out.stem}.part{out.suffix}")
        self.written = write_records(part, self._records())
        write_problems(_set_aside(out), self.set_aside)
        if not self.written:
            part.unlink()
            raise VistuneError(f"{self.path}: no problem can be used. {_set_aside(out)} says why.")
        part.replace(out)

    def told(self, out: Path, split: str) -> Iterator[str]:
        yield f"{out}: {self.written:,} problems, {self.with_picture:,} of them with a picture"
        for reason, count in count_by_reason(self.set_aside).items():
            yield f"set aside: {count} x {reason} (see {_set_aside(out)})"
        official = OFFICIAL_SIZES.get(split)
        if official and self.written != official:
            yield f"the published split {split} has {official:,} problems; this one {self.written:,}"

    def _records(self) -> Iterator[dict[str, Any]]:
        for problem in track(self.found.problems, "converting", len(self.found.problems)):
            flaw = self._flaw_of(problem)
            try:
                record = to_json(to_conversation(problem, self.order))
            except ValueError as error:
                flaw = Flaw(UNUSABLE, str(error))
            if flaw:
                place = f"{self.path}: problem {problem.id}"
                self.set_aside.append(Problem(place, flaw.reason, flaw.detail))
                continue
            self.with_picture += problem.image is not None
            yield record

    def _flaw_of(self, problem: ScienceProblem) -> Flaw | None:
        if problem.reduced:
            return Flaw("the reduced form, without lecture and solution")
        if said := STATED_ANSWER.search(f"{problem.lecture}\n{problem.solution}"):
            return Flaw("its lecture or solution states an answer, which could then not be read", said[0])
        if problem.image is None:
            return None
        flaw = self.pictures.look(problem.image)
        return Flaw(flaw.reason, f"{problem.image} {flaw.detail}".strip()) if flaw else None


def _set_aside(out: Path) -> Path:
    return out.with_suffix(".set_aside.jsonl")
