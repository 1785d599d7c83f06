"""The headers of a corpus's pictures, each looked at once; later only those that were flawed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from vistune.data.corpus_store import Samples
from vistune.data.images import Flaw
from vistune.data.pictures import PictureSources
from vistune.progress import meter

_THREADS = 8  # they mostly wait for the disk
_AT_ONCE = 256


def look_at_pictures(samples: Samples, sources: PictureSources, kept: Path) -> dict[str, Flaw]:
    """Pictures that are missing or have no sound header. Other damage shows when one is decoded.

    Args:
        samples: whose pictures.
        kept: a file that remembers what was found. Pictures are looked at anew where they lie elsewhere;
            flawed ones always, as they may have been mended.
    """
    places = sources.identity()
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
    names = list(before["flaws"]) if before and before["places"] == places else samples.names()
    found = _look(names, sources) if names else {}
    after = {"places": places, "flaws": {name: asdict(flaw) for name, flaw in found.items()}}
    if after != before:
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(after), encoding="utf-8")
        part.replace(kept)
    return found


def _look(names: Sequence[str], sources: PictureSources) -> dict[str, Flaw]:
    def look(some: Iterable[str]) -> list[Flaw | None]:
        return [sources.look(name) for name in some]

    chunks = [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
    found: dict[str, Flaw] = {}
    with meter("looking at pictures", len(names)) as progress, ThreadPoolExecutor(_THREADS) as pool:
        for some, flaws in zip(chunks, pool.map(look, chunks), strict=True):
            found |= {name: flaw for name, flaw in zip(some, flaws, strict=True) if flaw}
            progress.advance(by=len(some))
    return found
