"""What the model looked at, as HTML: a picture, the answer's words, and a map for each of them.

No script: the words are radio buttons, so that a mouse, a finger and a keyboard can all choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vistune.page.render import data_uri, load_template
from vistune.serve.page.heat import gradient, heat

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]
_MOST_MAPS = 1_200  # on one page; some 600 bytes each


class Looked(Protocol):
    """As :class:`vistune.serve.engine.attention.Looked`.

    ``words`` of the answer; ``maps`` of each picture, [words, grid, grid]; ``boxes``: what of each picture
    its grid covers, left, top, right, bottom as shares of its sides.
    """

    @property
    def words(self) -> Sequence[str]: ...
    @property
    def maps(self) -> Sequence[np.ndarray]: ...
    @property
    def boxes(self) -> Sequence[Box]: ...


@dataclass(frozen=True)
class _Overlay:
    """A map and its place, in percent of the strip of pictures."""

    src: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class _Frame:
    """A picture's place in the strip, in percent; all stand in one row, equally high."""

    src: str
    left: float
    width: float


def looked_page(looked: Looked, pictures: Sequence[Image.Image], relative: bool) -> str:
    """HTML for :class:`gr.HTML`; every text in it is escaped.

    Args:
        pictures: upright RGB, in the order of the maps.
        relative: how many times what the words look at a patch on average, instead of shares of attention.
    """
    maps = [_beside_the_others(map_) if relative else map_ for map_ in looked.maps]
    words = list(looked.words)[: max(1, _MOST_MAPS // max(1, len(maps)))]
    aspects = [picture.width / picture.height for picture in pictures]
    frames = _frames(pictures, aspects)
    whole = [map_.mean(0) for map_ in looked.maps]
    strongest = [100 * float(map_.sum()) for map_ in whole]
    page = load_template(__package__, "looked.html.j2").render(
        ratio=sum(aspects),
        frames=frames,
        whole=_overlays(whole, frames, looked.boxes),
        words=[
            (word, _overlays([map_[number] for map_ in maps], frames, looked.boxes))
            for number, word in enumerate(words)
        ],
        left_out=len(looked.words) - len(words),
        share=sum(strongest),
        relative=relative,
        gradient=gradient(),
    )
    return inert(page)


def inert(html: str) -> str:
    """``gr.HTML`` takes braces and dollar signs for its template's; they stand in texts only."""
    for sign in "{}$`":
        html = html.replace(sign, f"&#{ord(sign)};")
    return html


def _beside_the_others(maps: np.ndarray) -> np.ndarray:
    from vistune.serve.engine.attention import beside_the_others

    return beside_the_others(maps)


def _frames(pictures: Sequence[Image.Image], aspects: Sequence[float]) -> list[_Frame]:
    starts = np.cumsum([0.0, *aspects])
    scale = 100.0 / starts[-1]
    return [
        _Frame(data_uri(picture.copy()), float(start * scale), aspect * scale)
        for picture, aspect, start in zip(pictures, aspects, starts[:-1], strict=True)
    ]


def _overlays(maps: Sequence[np.ndarray], frames: Sequence[_Frame], boxes: Sequence[Box]) -> list[_Overlay]:
    """One scale for all pictures, so that they can be compared; each word has its own."""
    high = max(float(map_.max()) for map_ in maps)
    low = min(float(map_.min()) for map_ in maps)
    return [
        _Overlay(
            heat(map_, low, high),
            frame.left + left * frame.width,
            100 * top,
            (right - left) * frame.width,
            100 * (bottom - top),
        )
        for map_, frame, (left, top, right, bottom) in zip(maps, frames, boxes, strict=True)
    ]
