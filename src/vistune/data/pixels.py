"""Preprocessed pictures by file name, the latest kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vistune.data.images import Preprocessor, open_image


class PixelStore:
    """Loads pictures of one folder, keeping up to ``megabytes`` of them as 8-bit squares.

    Args:
        folder: what file names are relative to.
        preprocess: the vision encoder's preprocessing.
    """

    def __init__(self, folder: Path, preprocess: Preprocessor, megabytes: int = 512) -> None:
        self._folder, self._preprocess = folder, preprocess
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._capacity = megabytes * 1_000_000 // (3 * preprocess.size**2)

    def load(self, files: Sequence[str]) -> Tensor:
        """Pixels [N, 3, size, size] of ``files``, in their order.

        Raises:
            UnusableImageError: a picture is missing or broken.
        """
        return torch.from_numpy(np.stack([self._preprocess.normalise(self._square(file)) for file in files]))

    def _square(self, file: str) -> np.ndarray:
        if file in self._kept:
            self._kept.move_to_end(file)
            return self._kept[file]
        square = np.asarray(self._preprocess.square(open_image(self._folder / file)))
        self._kept[file] = square
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return square
