"""Pictures as the model takes them: pixels, or features of the frozen encoder that were computed before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vistune.data.images import UnusableImageError
from vistune.data.pixels import PixelStore
from vistune.errors import Problem, VistuneError
from vistune.model.vision import VisionEncoder
from vistune.progress import meter
from vistune.train.parallel import Team

_AT_ONCE = 64  # pictures


class Pictures(Protocol):
    """Loads pictures by name.

    Attributes:
        broken: pictures that could not be read so far, by name. Theirs are zeros.
    """

    broken: dict[str, Problem]

    def load(self, names: Sequence[str]) -> Tensor: ...

    def close(self) -> None:
        """End the threads that load."""
        ...


class Pixels:
    """Pixels [I, 3, size, size]."""

    def __init__(self, store: PixelStore, size: int) -> None:
        self._store, self._size = store, size
        self.broken: dict[str, Problem] = {}

    def load(self, names: Sequence[str]) -> Tensor:
        while True:
            whole = [name for name in names if name not in self.broken]
            try:
                loaded = self._store.load(whole) if whole else None
                break
            except UnusableImageError:
                self._find_broken(whole)
        if loaded is not None and len(whole) == len(names):
            return loaded
        pixels = torch.zeros(len(names), 3, self._size, self._size)
        if loaded is not None:
            pixels[[name not in self.broken for name in names]] = loaded
        return pixels

    def close(self) -> None:
        self._store.close()

    def _find_broken(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                self._store.load([name])
            except UnusableImageError as error:
                self.broken[name] = Problem(name, error.flaw.reason, error.flaw.detail)


class Features:
    """Features [I, patches, width], kept on disk in a memory map; they are computed once for a run.

    Args:
        folder: where they are kept, in shards; a stage with pictures that are not there adds a shard.
        dtype: of the kept features.
    """

    def __init__(self, folder: Path, vision: VisionEncoder, dtype: torch.dtype) -> None:
        self._folder, self._vision, self._dtype = folder, vision, dtype
        self._shards: list[Tensor] = []
        self._places: dict[str, tuple[int, int]] = {}
        self.broken: dict[str, Problem] = {}
        for names in sorted(folder.glob("*.json")):
            self._open(names)

    def load(self, names: Sequence[str]) -> Tensor:
        places = [self._places[name] for name in names]
        return torch.stack([self._shards[shard][row] for shard, row in places])

    def close(self) -> None:
        """Kept features need no threads."""

    def add(self, names: Sequence[str], pixels: Pixels, team: Team) -> None:
        """Compute what is not there yet, each process its share. All processes call this.

        Raises:
            VistuneError: there is no room for it.
        """
        missing = sorted(set(names) - self._places.keys())
        if not missing:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._refuse_too_large(len(missing))
        first = len(self._shards)
        team.wait()  # all have seen the same shards
        if share := missing[team.rank :: team.size]:
            self._compute(self._folder / f"{first + team.rank:03d}.json", share, pixels, team.device)
        team.wait()
        for number in range(first, first + min(team.size, len(missing))):
            self._open(self._folder / f"{number:03d}.json")

    def _compute(self, target: Path, missing: Sequence[str], pixels: Pixels, device: torch.device) -> None:
        """Write the shard ``target``."""
        rows = self._map(target, len(missing))
        with meter("computing features", len(missing)) as progress:
            for start in range(0, len(missing), _AT_ONCE):
                some = missing[start : start + _AT_ONCE]
                rows[start : start + len(some)] = self._vision(pixels.load(some).to(device)).to(rows.dtype)
                progress.advance(by=len(some))
        broken = {name: vars(pixels.broken[name]) for name in missing if name in pixels.broken}
        part = target.with_suffix(".part")
        part.write_text(json.dumps({"names": missing, "broken": broken}), encoding="utf-8")
        part.replace(target)  # last: a shard without its names is computed again

    def _open(self, names: Path) -> None:
        content = json.loads(names.read_text(encoding="utf-8"))
        for row, name in enumerate(content["names"]):
            self._places[name] = (len(self._shards), row)
        self.broken |= {name: Problem(**problem) for name, problem in content["broken"].items()}
        self._shards.append(self._map(names, len(content["names"])))

    def _map(self, names: Path, count: int) -> Tensor:
        shape = (count, self._vision.patches, self._vision.width)
        size = count * self._vision.patches * self._vision.width
        file = str(names.with_suffix(".bin"))
        return torch.from_file(file, shared=True, size=size, dtype=self._dtype).view(shape)

    def _refuse_too_large(self, count: int) -> None:
        needed = count * self._vision.patches * self._vision.width * self._dtype.itemsize
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise VistuneError(
                f"{self._folder}: features of {count:,} pictures need {needed / 2**30:.1f} GiB and "
                f"{free / 2**30:.1f} GiB are free. Make room, or set `run.features: compute`."
            )
