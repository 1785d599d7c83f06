"""The caption files of a curation as one stream, read as often as needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vistune.data.curate.pairs import Pair, check_files, read_pairs
from vistune.data.curate.phrases import BLOCK, Block
from vistune.errors import Problem, VistuneError
from vistune.progress import say


class Source:
    """Checked on creation: every row is read and counted before the long work.

    Attributes:
        captions: how many can be used.
        set_aside: how many rows cannot, by reason.

    Raises:
        VistuneError: a file cannot be read, or not one caption can be used.
    """

    def __init__(self, files: Sequence[Path], longest: int) -> None:
        self.files, self.longest = list(files), longest
        self._names = check_files(files)
        self.captions = 0
        self.set_aside: Counter[str] = Counter()
        first: Problem | None = None
        for row in self.rows():
            if isinstance(row, Problem):
                first = first or row
                self.set_aside[row.reason] += 1
            else:
                self.captions += 1
        if problems := self.set_aside.total():
            say(f"{problems} of {problems + self.captions} rows cannot be used and are set aside")
        if not self.captions:
            found = f"{first.place}: {first.reason} ({first.detail})" if first else "the files are empty"
            raise VistuneError(f"No caption could be read: {found}. Expected lines `caption<TAB>url`.")

    def rows(self) -> Iterator[Pair | Problem]:
        for path, name in zip(self.files, self._names, strict=True):
            yield from read_pairs(path, name, self.longest)

    def pairs(self) -> Iterator[Pair]:
        return (row for row in self.rows() if isinstance(row, Pair))

    def problems(self) -> Iterator[Problem]:
        """Rows set aside; reads nothing where there are none."""
        return (row for row in self.rows() if isinstance(row, Problem)) if self.set_aside else iter(())

    def blocks(self, start: int) -> Iterator[Block]:
        """Captions from number ``start`` on, in blocks."""
        return in_blocks(pair.caption for pair in islice(self.pairs(), start, None))

    def identity(self) -> list[dict[str, Any]]:
        """What shows that a file is another one."""
        stats = [(path.resolve(), path.stat()) for path in self.files]
        return [{"file": str(p), "bytes": s.st_size, "changed": s.st_mtime_ns} for p, s in stats]


def in_blocks(captions: Iterable[str]) -> Iterator[Block]:
    """Captions in blocks of ``BLOCK``, the last one shorter."""
    captions = iter(captions)
    while block := list(islice(captions, BLOCK)):
        yield block
