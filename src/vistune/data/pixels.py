"""Preprocessed pictures by name, the latest kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from vistune.data.images import Preprocessor
from vistune.data.pictures import Pictures, PictureSources


class PixelStore:
    """Loads pictures, keeping up to ``megabytes`` of them as 8-bit squares. Threads may share it.

    Args:
        pictures: where they lie: an opened place, several, or the path of one.
        preprocess: the vision encoder's preprocessing.
        workers: threads that decode; what is loaded does not depend on them.
    """

    def __init__(
        self,
        pictures: Path | Pictures | PictureSources,
        preprocess: Preprocessor,
        megabytes: int = 512,
        workers: int = 1,
    ) -> None:
        self._pictures = Pictures(pictures) if isinstance(pictures, Path) else pictures
        self._preprocess = preprocess
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = Lock()
        self._capacity = megabytes * 1_000_000 // (3 * preprocess.size**2)
        self._pool = ThreadPoolExecutor(workers, "decode") if workers > 1 else None

    @property
    def size(self) -> int:
        """Side of the squares."""
        return self._preprocess.size

    def load(self, files: Sequence[str]) -> Tensor:
        """Pixels [N, 3, size, size] of ``files``, in their order.

        Raises:
            UnusableImageError: a picture is missing or broken; the first such in the order of ``files``.
        """
        size, unique = self.size, list(dict.fromkeys(files))
        pixels = np.empty((len(unique), 3, size, size), dtype=np.float32)

        def load_one(number: int) -> None:
            pixels[number] = self._preprocess.normalise(self._square(unique[number]))

        numbers = range(len(unique))
        done: Iterable[None] = self._pool.map(load_one, numbers) if self._pool else map(load_one, numbers)
        for _ in done:
            pass
        if len(unique) == len(files):
            return torch.from_numpy(pixels)
        place = {file: number for number, file in enumerate(unique)}
        return torch.from_numpy(pixels[[place[file] for file in files]])

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def _square(self, file: str) -> np.ndarray:
        with self._lock:
            if file in self._kept:
                self._kept.move_to_end(file)
                return self._kept[file]
        square = np.asarray(self._preprocess.square(self._pictures.open(file)))
        with self._lock:
            self._kept[file] = square
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return square
