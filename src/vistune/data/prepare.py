"""LLaVA-format files -> encoded samples on disk, in one pass over each file."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vistune.conversation import Conversation, from_json, picture_first
from vistune.data.corpus_store import SampleWriter
from vistune.data.images import Flaw, outside
from vistune.data.pictures import SEPARATOR, PictureSources
from vistune.data.records import Record, file_format, read_records
from vistune.errors import Problem, VistuneError, write_problems
from vistune.progress import meter
from vistune.template import Folded, Renderer

_AT_ONCE, _AHEAD = 512, 2  # conversations of one call of the tokenizer, and calls at the same time
SETTINGS, PROBLEMS = "settings.json", "problems.jsonl"


@dataclass(frozen=True)
class SourceFile:
    """A data file, and the label of the place where its pictures lie; empty for the default."""

    path: Path
    label: str


@dataclass(frozen=True)
class Encoder:
    """How a record becomes a sample.

    Attributes:
        patches: tokens that a picture takes; each is the ``image_token``.
        max_length: a longer sample is cut at a turn's end.
        picture: where a question's picture stands: ``written``, or ``first``.
    """

    renderer: Renderer
    image_token: int
    patches: int
    max_length: int
    picture: str

    def samples(self, records: Iterable[Record | Problem], label: str) -> Iterator[_Sample | Problem]:
        """Yield a sample for each record, or why there is none, in their order."""
        pending = iter(records)
        # The tokenizer works without Python's lock: meanwhile other batches are read, written and finished.
        with ThreadPoolExecutor(_AHEAD, "tokenize") as tokenizing:
            ahead: deque[_Batch] = deque()
            while batch := list(islice(pending, _AT_ONCE)):
                read = [item if isinstance(item, Problem) else self._read(item) for item in batch]
                conversations = [item for item in read if isinstance(item, Conversation)]
                ahead.append(_Batch(batch, read, tokenizing.submit(self.renderer.fold_all, conversations)))
                if len(ahead) > _AHEAD:
                    yield from self._finished(ahead.popleft(), label)
            while ahead:
                yield from self._finished(ahead.popleft(), label)

    def _finished(self, batch: _Batch, label: str) -> Iterator[_Sample | Problem]:
        folded = iter(batch.folded.result())
        for item, source in zip(batch.read, batch.records, strict=True):
            if isinstance(item, Problem):
                yield item
            else:
                yield self._finish(next(folded), source.place, label)

    def _read(self, record: Record) -> Conversation | Problem:
        try:
            conversation = from_json(record.value)
        except ValueError as error:
            return Problem(record.place, "malformed record", str(error))
        if flaw := next((flaw for file in conversation.pictures if (flaw := _flaw_of_name(file))), None):
            return Problem(record.place, flaw.reason, flaw.detail)
        try:
            "".join([*conversation.pictures, *(turn.text for turn in conversation.turns)]).encode()
        except UnicodeEncodeError:
            return Problem(record.place, "text is not valid Unicode")
        return picture_first(conversation) if self.picture == "first" else conversation

    def _finish(self, whole: Folded, place: str, label: str) -> _Sample | Problem:
        sample = whole.cut(self.max_length)
        if sample is None:
            return Problem(place, "longer than max_length", f"{len(whole)} > {self.max_length} tokens")
        if not sample.spans:
            return Problem(place, "no token to learn from")
        if sample.ids.count(self.image_token) != len(sample.pictures):
            return Problem(place, "image tokens do not match its pictures")
        if label:
            names = [PictureSources.name(label, file) for file in sample.pictures]
            sample = replace(sample, pictures=names)
        return _Sample(sample, place, sample.ids is not whole.ids)


class _Sample(NamedTuple):
    encoded: Folded
    place: str
    cut: bool


class _Batch(NamedTuple):
    """Records, what was read of each, and the samples that are on their way."""

    records: Sequence[Record | Problem]
    read: Sequence[Conversation | Problem]
    folded: Future[list[Folded]]


def prepare(files: list[SourceFile], encoder: Encoder, folder: Path, settings: dict[str, Any]) -> None:
    """Write ``folder``; it appears whole, with its ``settings``, or not at all.

    Raises:
        VistuneError: a file cannot be read, or ``folder`` cannot be written.
    """
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        writer = SampleWriter(scratch)
        problems: list[Problem] = []
        cut = 0
        with meter("encoding records", sum(_count(file.path) for file in files)) as progress:
            for number, file in enumerate(files):
                for sample in encoder.samples(read_records(file.path), file.label):
                    if isinstance(sample, Problem):
                        problems.append(sample)
                    else:
                        writer.add(sample.encoded, number, sample.place)
                        cut += sample.cut
                    progress.advance()
        writer.close()
        write_problems(scratch / PROBLEMS, problems)
        text = json.dumps({"settings": settings, "cut": cut}, indent=2)
        (scratch / SETTINGS).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        scratch.replace(folder)
    except OSError as error:
        raise VistuneError(f"{folder}: cannot be written ({error.strerror or error}). Make room.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _flaw_of_name(file: str) -> Flaw | None:
    if SEPARATOR in file:
        return Flaw("`image` is not a file name", repr(file))
    return outside(file)


def _count(path: Path) -> int:
    """About how many records a file holds, for the meter."""
    if file_format(path) == "parquet":
        from pyarrow import parquet

        try:
            return int(parquet.read_metadata(path).num_rows)
        except (OSError, ValueError):
            return 0  # read_records says what is wrong
    sign = b"\n" if file_format(path) == "jsonl" else b'"conversations"'
    try:
        with open(path, "rb") as file:
            return sum(block.count(sign) for block in iter(lambda: file.read(1 << 24), b""))
    except OSError:
        return 0
