"""The check of a whole file: one pass over the records, then one look at each picture."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vistune.conversation import Conversation, from_json
from vistune.data.check.length import LengthCheck
from vistune.data.check.pictures import look_at_all
from vistune.data.check.record import faults_of, oddities_of
from vistune.data.check.report import (
    CheckReport,
    Finding,
    Printer,
    Severity,
    Teller,
    findings_file,
    summary_of,
)
from vistune.data.images import Flaw, outside
from vistune.data.json_stream import BrokenJsonError
from vistune.data.records import Record, read_records
from vistune.errors import Problem, VistuneError
from vistune.processes import all_cores
from vistune.progress import say

_SECONDS_BETWEEN_NEWS = 10.0
_ID_TWICE = "same `id` as another record"
_RECORD_TWICE = "same pictures and conversation as another record"


@dataclass(frozen=True)
class CheckSettings:
    """How strictly to look.

    Attributes:
        tokenizer: what counts tokens exactly: a folder, a name on the Hub, ``starter``; None estimates.
        template: conversation template that the length is counted with.
        image_tokens: positions that one picture takes: 576 for CLIP ViT-L/14 at 336 pixels.
        max_length: longest conversation in tokens, pictures expanded.
        decode: decode every picture in full; see :func:`vistune.data.check.pictures.look_at`.
        workers: processes that look at pictures; None takes one for each core.
    """

    tokenizer: str | None = None
    template: str = "vicuna_v1"
    image_tokens: int = 576
    max_length: int = 2048
    decode: bool = False
    workers: int | None = None


def check(data: Path, images: Path | None, settings: CheckSettings, tell: Teller) -> CheckReport:
    """Look at every record of ``data`` and, where a folder is given, at every picture.

    Args:
        data: JSON, JSON lines or Parquet in LLaVA's format; it is never in memory as a whole.
        tell: gets each finding as it is made: the records' in the file's order, then the pictures'.

    Raises:
        VistuneError: ``data`` or ``images`` cannot be read, or the tokenizer or template is unknown. A file
            that breaks off is a finding instead.
    """
    if images is not None and not images.is_dir():
        raise VistuneError(f"{images}: no such folder of images.")
    checker = _Checker(data, settings, tell)
    checker.read_all()
    looked = None
    if images is not None:
        looked = checker.look_at_pictures(images, settings.decode, settings.workers or all_cores())
    return checker.report(looked)


def check_and_tell(
    data: Path, images: Path | None, settings: CheckSettings, list_file: Path | None, most: int
) -> CheckReport:
    """Check, print up to ``most`` findings of each reason and a summary; write all to ``list_file``.

    Raises:
        VistuneError: as :func:`check`, or ``list_file`` exists or cannot be written.
    """
    printer = Printer(most)
    with findings_file(list_file) as file:

        def tell(finding: Finding) -> None:
            printer(finding)
            if file:
                file(finding)

        report = check(data, images, settings, tell)
        if file:
            file.finish(report)
    if printer.hidden:
        where = f"all are in {list_file}" if list_file else "--json FILE lists all"
        print(f"... and {printer.hidden:,} more; {where}")
    print(summary_of(report))
    return report


@dataclass
class _Use:
    """Where a picture is used: the first place, and the numbers of all records that show it."""

    place: str
    records: list[int]


@dataclass
class _Checker:
    data: Path
    settings: CheckSettings
    tell: Teller
    records: int = 0
    faulty: set[int] = field(default_factory=set)  # numbers of records with an error
    counts: dict[Severity, Counter[str]] = field(
        default_factory=lambda: {"error": Counter(), "warning": Counter()}
    )
    pictures: dict[str, _Use] = field(default_factory=dict)
    seen: dict[str, dict[int, str]] = field(default_factory=lambda: {_ID_TWICE: {}, _RECORD_TWICE: {}})

    def __post_init__(self) -> None:
        s = self.settings
        self.length = LengthCheck(s.tokenizer, s.template, s.image_tokens, s.max_length)

    def read_all(self) -> None:
        last = time.monotonic()
        try:
            for record in read_records(self.data):
                self.records += 1
                if isinstance(record, Problem):
                    self._find("error", record.place, Flaw(record.reason, record.detail))
                else:
                    self._read(record)
                if self.records % 1000 == 0 and time.monotonic() - last >= _SECONDS_BETWEEN_NEWS:
                    last = time.monotonic()
                    say(f"checking records: {self.records}")
        except BrokenJsonError as error:
            flaw = Flaw("not valid JSON; what follows was not read", error.what)
            self._find("error", f"{self.data}: line {error.line}", flaw, whole_file=True)
        if not self.records:
            self._find("error", str(self.data), Flaw("no records"), whole_file=True)

    def look_at_pictures(self, folder: Path, decode: bool, workers: int) -> int:
        """Returns how many there are."""
        looks = look_at_all(list(self.pictures), folder, decode, workers)
        for file, look in zip(self.pictures, looks, strict=True):
            if flaw := look.flaw:
                use = self.pictures[file]
                self.faulty.update(use.records)
                also = f", in {len(use.records)} records" if len(use.records) > 1 else ""
                detail = f"{file}{also}{': ' if flaw.detail else ''}{flaw.detail}"
                self._find("error", use.place, Flaw(flaw.reason, detail), whole_file=True)
        return len(self.pictures)

    def report(self, looked: int | None) -> CheckReport:
        return CheckReport(
            str(self.data),
            self.records,
            self.records - len(self.faulty),
            looked,
            dict(self.counts["error"].most_common()),
            dict(self.counts["warning"].most_common()),
        )

    def _read(self, record: Record) -> None:
        try:
            conversation = from_json(record.value)
        except ValueError as error:
            for flaw in faults_of(record.value) or [Flaw("malformed record", str(error))]:
                self._find("error", record.place, flaw)
            return
        try:
            self._find_duplicates(conversation, record.place)
        except UnicodeEncodeError as error:
            self._find(
                "error", record.place, Flaw("text is not valid Unicode", f"{error.object[error.start]!r}")
            )
            return
        for flaw in oddities_of(conversation):
            self._find("warning", record.place, flaw)
        if too_long := self.length.flaw_of(conversation):
            self._find("error" if self.length.exact else "warning", record.place, too_long)
        for file in conversation.pictures:
            self._note_picture(file, record.place)

    def _note_picture(self, file: str, place: str) -> None:
        if flaw := outside(file):
            self._find("error", place, flaw)
        elif file in self.pictures:
            self.pictures[file].records.append(self.records)
        else:
            self.pictures[file] = _Use(place, [self.records])

    def _find_duplicates(self, conversation: Conversation, place: str) -> None:
        said = [turn.text for turn in conversation.turns]
        keys = {_RECORD_TWICE: _hash([str(len(conversation.pictures)), *conversation.pictures, *said])}
        if conversation.id:
            keys[_ID_TWICE] = _hash([conversation.id])
        for reason, key in keys.items():
            first = self.seen[reason].get(key)
            if first is None:
                self.seen[reason][key] = place
            else:
                self._find("warning", place, Flaw(reason, f"first in {first.removeprefix(f'{self.data}: ')}"))

    def _find(self, severity: Severity, place: str, flaw: Flaw, whole_file: bool = False) -> None:
        """``whole_file``: the finding is not, or not only, about the record that was read last."""
        if severity == "error" and not whole_file:
            self.faulty.add(self.records)
        self.counts[severity][flaw.reason] += 1
        self.tell(Finding(severity, Problem(place, flaw.reason, flaw.detail)))


def _hash(parts: Sequence[str]) -> int:
    """64 bits: among a million records, two different ones share theirs with a chance of 1 in 37 million."""
    text = "\0".join(parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
