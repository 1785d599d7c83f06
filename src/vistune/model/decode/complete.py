"""Whole answers to many prompts; a picture is read once for all prompts that begin with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
from torch import Tensor

from vistune.model.decode.decoder import Decoder
from vistune.model.decode.rows import Row
from vistune.model.llava import Llava

ROWS = 64
_READ_TOKENS = 4096  # read at a time
_REFILL = 0.25  # of the rows; fewer free ones are not worth a forward pass of their own


@dataclass(frozen=True)
class Prompt:
    """What is to be answered: ids with an image token for each patch, and the pictures' names in order."""

    ids: Sequence[int]
    pictures: tuple[str, ...] = ()


@torch.inference_mode()
def complete(
    model: Llava,
    prompts: Sequence[Prompt],
    load: Callable[[Sequence[str]], Tensor],
    stop: Sequence[int],
    most: int,
    rows: int = ROWS,
) -> Iterator[tuple[int, list[int]]]:
    """Answer all prompts, greedily.

    Neighbours that begin with the same pictures share their beginning, up to the last picture's last patch.
    Rows join as others end, so that no row waits for a longer one.

    Args:
        load: pixels [N, 3, H, W] of pictures by name.
        stop: the ids that end an answer.
        most: new tokens at most.
        rows: prompts that are decoded together at most.

    Yields:
        A prompt's number and its answer's ids without STOP, as answers end.
    """
    decoder = Decoder(model, stop)
    waiting = deque(_groups(prompts, model.image_token, rows))
    asked: dict[int, int] = {}
    ended: list[Row] = []
    while waiting or len(decoder):
        while chosen := _next(waiting, rows - len(decoder), rows):
            joining = _read(model, decoder, chosen, prompts, load, most)
            asked |= {id(row): number for number, row in joining}
            ended += decoder.join([row for _, row in joining])
        if len(decoder):
            ended += decoder.step()
        yield from ((asked.pop(id(row)), decoder.answer(row)) for row in ended)
        ended.clear()


def stream(
    model: Llava, ids: Sequence[int], pixels: Tensor | None, stop: Sequence[int], most: int
) -> Iterator[int]:
    """One answer, a token at a time, its STOP included.

    Args:
        pixels: the prompt's pictures [I, 3, H, W].
    """
    decoder = Decoder(model, stop)
    with torch.inference_mode():
        row = Row(ids, most, pictures=None if pixels is None else model.features(pixels))
        ended = decoder.join([row])
    while not ended:
        yield row.written[-1]
        ended = decoder.step()
    yield row.written[-1]


@dataclass(frozen=True)
class _Group:
    """Neighbouring prompts with one beginning: ``shared`` ids of each are the same; 0 for a text alone."""

    numbers: tuple[int, ...]
    shared: int
    tokens: int  # to be read for all of them


def _groups(prompts: Sequence[Prompt], image_token: int, rows: int) -> Iterator[_Group]:
    def beginning(number: int) -> object:
        prompt = prompts[number]
        return (
            (prompt.pictures, tuple(prompt.ids[: _shared(prompt, image_token)]))
            if prompt.pictures
            else number
        )

    for _, members in groupby(range(len(prompts)), key=beginning):
        while numbers := tuple(islice(members, rows)):
            shared = _shared(prompts[numbers[0]], image_token)
            yield _Group(numbers, shared, shared + sum(len(prompts[n].ids) - shared for n in numbers))


def _shared(prompt: Prompt, image_token: int) -> int:
    """Where the last picture ends; less than the whole, so that a row has something to read."""
    if not prompt.pictures:
        return 0
    last = len(prompt.ids) - list(reversed(prompt.ids)).index(image_token)
    return min(last, len(prompt.ids) - 1)


def _next(waiting: deque[_Group], free: int, rows: int) -> list[_Group]:
    """The groups to be read now: while there is room, unless it is too little to be worth it."""
    if free < _REFILL * rows:
        return []
    chosen: list[_Group] = []
    tokens = 0
    while waiting and len(waiting[0].numbers) <= free and tokens < _READ_TOKENS:
        group = waiting.popleft()
        chosen.append(group)
        free -= len(group.numbers)
        tokens += group.tokens
    return chosen


def _read(
    model: Llava,
    decoder: Decoder,
    groups: Sequence[_Group],
    prompts: Sequence[Prompt],
    load: Callable[[Sequence[str]], Tensor],
    most: int,
) -> list[tuple[int, Row]]:
    """Read the groups' beginnings; the rows that go on from them, with their prompts' numbers."""
    seeing = [group for group in groups if group.shared]
    firsts = [prompts[group.numbers[0]] for group in seeing]
    stretches = {}
    if seeing:
        names = [name for prompt in firsts for name in prompt.pictures]
        unique = list(dict.fromkeys(names))
        features = model.features(load(unique).to(model.device))
        pictures = features[[unique.index(name) for name in names]]
        beginnings = [prompt.ids[: group.shared] for prompt, group in zip(firsts, seeing, strict=True)]
        stretches = dict(zip(map(id, seeing), decoder.read(beginnings, pictures), strict=True))
    return [
        (number, Row(prompts[number].ids[group.shared :], most, stretches.get(id(group))))
        for group in groups
        for number in group.numbers
    ]
