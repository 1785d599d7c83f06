"""Split LLaVA-format files into what is trained on and what is held out: by picture, never by record.

Dialogues on one picture stay on one side, over all files together, or a model would be measured on pictures
that it has learned. A record that shows several pictures ties them together.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vistune.data.records import file_format, read_records, write_records, writing
from vistune.errors import Problem, VistuneError
from vistune.folders import refuse_used

TRAIN, VAL = "train", "val"
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Share:
    """How much is held out: a share of the pictures, or a number of them."""

    share: float | None = None
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``5%`` or ``200``.

        Raises:
            VistuneError: neither, or not between nothing and all.
        """
        number, percent, rest = text.strip().partition("%")
        try:
            if percent and not rest and 0 < float(number) < 100:
                return cls(share=float(number) / 100)
            if not percent and int(number) > 0:
                return cls(count=int(number))
        except ValueError:
            pass
        raise VistuneError(
            f"--val {text!r}: expected a share of the pictures, e.g. 5%, or their number, e.g. 200."
        )

    def of(self, whole: int) -> int:
        """How many of ``whole``, at least one where there are two."""
        wanted = self.count if self.count is not None else round((self.share or 0) * whole)
        return min(max(wanted, 1), whole - 1) if whole > 1 else 0


@dataclass
class Split:
    """What came of it.

    Attributes:
        records: by file name, records of each side.
        pictures: different ones of each side.
        problems: records that are on neither side.
    """

    records: dict[str, dict[str, int]] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        for name, counts in self.records.items():
            yield f"{name}: {counts[TRAIN]:,} records to train on, {counts[VAL]:,} held out"
        yield f"pictures: {self.pictures[TRAIN]:,} to train on, {self.pictures[VAL]:,} held out"
        for problem in self.problems[:10]:
            yield f"left out: {problem.place}: {problem.reason}" + (
                f" ({problem.detail})" if problem.detail else ""
            )
        if len(self.problems) > 10:
            yield f"left out: {len(self.problems) - 10:,} more"


def split(files: Sequence[Path], share: Share, out: Path, seed: int) -> Split:
    """Write ``out/train/NAME`` and ``out/val/NAME`` for each file, in its format; all of it or nothing.

    Text-only records are drawn by record. A file that has no record on a side is not written there.

    Raises:
        VistuneError: ``out`` is used, two files have one name, a file cannot be read, or there is too little
            to split.
    """
    refuse_used(out)
    _refuse_one_name(files)
    result = Split()
    keys = [list(_keys(file, result.problems)) for file in files]
    held = _hold_out(keys, share, seed, result)
    scratch = out.with_name(out.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    with writing(out):
        for file, of_file in zip(files, keys, strict=True):
            sides = [_side(key, held) for key in of_file]
            result.records[file.name] = {
                side: _write(file, scratch / side, [found == side for found in sides])
                for side in (TRAIN, VAL)
            }
        scratch.replace(out)
    return result


def _side(key: frozenset[str] | None, held: set[str]) -> str | None:
    if key is None:
        return None
    return TRAIN if key.isdisjoint(held) else VAL


def _refuse_one_name(files: Sequence[Path]) -> None:
    names = [file.name for file in files]
    for file in files:
        if names.count(file.name) > 1:
            raise VistuneError(f"{file}: another file has this name, too. Rename one, or split them apart.")


def _keys(file: Path, problems: list[Problem]) -> Iterator[frozenset[str] | None]:
    """For each record its pictures, or what stands for a record of text; None for what is no record."""
    for item in read_records(file):
        found = item if isinstance(item, Problem) else _key(item.value)
        if isinstance(found, frozenset):
            yield found
            continue
        place = item.place
        problems.append(found if isinstance(found, Problem) else Problem(place, "malformed record", found))
        yield None


def _key(record: Any) -> frozenset[str] | str:
    """The keys of a record, or what is wrong with it."""
    if not isinstance(record, dict):
        return f"expected an object, found {type(record).__name__}"
    images = record.get("image")
    named = [images] if isinstance(images, str) else images or []
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return f"`image`: expected a file name or a list of them, found {images!r}"
    if named:
        return frozenset(f"picture {name}" for name in named)
    text = json.dumps(record.get("conversations"), sort_keys=True, default=str)
    return frozenset([f"text {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"])


def _hold_out(
    keys: Sequence[Sequence[frozenset[str] | None]], share: Share, seed: int, result: Split
) -> set[str]:
    """The keys whose records are held out."""
    groups = _tied_together(key for of_file in keys for key in of_file if key is not None)
    held: set[str] = set()
    for kind in ("picture ", "text "):
        own = [group for group in groups if group[0].startswith(kind)]
        whole = sum(map(len, own))
        # If --val is a number of pictures, the same proportion of the text is held out.
        if kind == "text " and share.count is not None and result.pictures[TRAIN]:
            pictures = result.pictures[TRAIN] + result.pictures[VAL]
            share = Share(share=result.pictures[VAL] / pictures)
        wanted, chosen = share.of(whole), 0
        random.Random(f"split/{seed}/{kind}").shuffle(own)
        for group in own:
            if chosen + len(group) <= wanted:
                held.update(group)
                chosen += len(group)
        if kind == "picture ":
            result.pictures = {TRAIN: whole - chosen, VAL: chosen}
    if not held:
        raise VistuneError(
            "Too little to split: the records show one picture, or pictures that all belong together."
        )
    return held


def _tied_together(keys: Iterable[frozenset[str]]) -> list[list[str]]:
    """Groups of keys that some record has together, in the order in which they are first seen."""
    above: dict[str, str] = {}

    def root(key: str) -> str:
        above.setdefault(key, key)
        while above[key] != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    for together in keys:
        first, *others = sorted(together)
        for other in [first, *others]:
            above[root(other)] = root(first)
    groups: dict[str, list[str]] = {}
    for key in above:
        groups.setdefault(root(key), []).append(key)
    return list(groups.values())


def _write(file: Path, folder: Path, wanted: Sequence[bool]) -> int:
    """The wanted records of ``file``, into ``folder``; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(wanted):
        return 0
    if file_format(file) == "parquet":
        _write_rows(file, folder / file.name, np.array(wanted))
    else:
        pairs = zip(read_records(file), wanted, strict=True)
        write_records(folder / file.name, (item.value for item, take in pairs if take))  # type: ignore[union-attr]
    return sum(wanted)


def _write_rows(file: Path, target: Path, wanted: np.ndarray) -> None:
    """Rows of a Parquet file with all their columns, as they are."""
    import pyarrow
    from pyarrow import parquet

    with parquet.ParquetFile(file) as source, parquet.ParquetWriter(target, source.schema_arrow) as writer:
        start = 0
        for batch in source.iter_batches(_ROWS_AT_ONCE):
            mask = pyarrow.array(wanted[start : start + len(batch)])
            writer.write_batch(batch.filter(mask))
            start += len(batch)
