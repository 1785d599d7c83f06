"""What the model looked at: attention from the words of an answer to the patches of its pictures.

One pass over prompt and answer. Of each layer, only the weights of the places that wrote the answer are
computed apart, and only those on patches are kept, as a sum over layers and heads.

A hint, not an explanation: attention says from where a layer read, not what it read there, nor what the
answer would have been without it. The plain mean over all heads and layers, at the place that *writes* a
token, was kept because nothing else that was tried finds named objects better (``test_attention_view.py``
measures it on the starter): single layers, the place that reads the token, what exceeds the usual.

Shapes: H heads, G key-value heads, N tokens, d width of a head, R rows (places that write), C columns
(patches of all pictures).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vistune.conversation import Conversation, gpt
from vistune.data.preprocess import Preprocessor
from vistune.model.attention import How, Layout, attend_to_end
from vistune.model.checkpoint import Checkpoint
from vistune.serve.engine.engine import BadRequestError
from vistune.serve.engine.writing import Writer

Box: TypeAlias = "tuple[float, float, float, float]"
_AT_ONCE = 2**24  # scores; 64 MiB in 32 bits


@dataclass(frozen=True)
class Looked:
    """Where each word of an answer came from.

    Attributes:
        words: the answer's, between white space.
        maps: of each picture, float32 [words, grid, grid]: the share of a word's attention on each patch,
            mean over its tokens. The rest of the 1 went to text and to other pictures.
        boxes: of each picture, what the grid covers: left, top, right, bottom as shares of the upright
            picture's sides. Below 0 or above 1 where the picture was padded.
    """

    words: list[str]
    maps: list[np.ndarray]
    boxes: list[Box]

    def whole(self) -> list[np.ndarray]:
        """The mean over all words, [grid, grid] of each picture."""
        return [maps.mean(0) for maps in self.maps]


def beside_the_others(maps: np.ndarray) -> np.ndarray:
    """[words, grid, grid] -> how many times what the words look at a patch on average; 1 is as always.

    For encoders in which a few patches draw the attention of all words, whatever these say. Of one word it
    tells nothing: all of it is 1.
    """
    usual: np.ndarray = maps.mean(0, keepdims=True)
    return np.divide(maps, usual, out=np.ones_like(maps), where=usual > 0)


@torch.inference_mode()
def look(
    checkpoint: Checkpoint,
    conversation: Conversation,
    pictures: Sequence[Image.Image],
    answer_ids: Sequence[int],
) -> Looked:
    """Look at an answer's way through the model once more.

    Args:
        conversation: ends with the question.
        pictures: upright and RGB, in the order of the conversation's.
        answer_ids: without STOP; of an answer's text, :func:`ids_of`.

    Raises:
        BadRequestError: nothing to look at, or more than the model reads.
    """
    prompt = checkpoint.renderer.encode_prompt(conversation).ids
    model = checkpoint.model
    _refuse(checkpoint, len(conversation.pictures), len(pictures), len(prompt), len(answer_ids))
    ids = torch.tensor([[*prompt, *answer_ids[:-1]]], device=model.device)
    pixels = torch.stack([torch.from_numpy(checkpoint.preprocess(picture)) for picture in pictures])
    watch = _Watch(len(prompt) - 1, (ids[0] == model.image_token).nonzero()[:, 0])
    positions = torch.arange(ids.shape[1], device=model.device)[None]
    model.read(ids, positions, watch, model.features(pixels.to(model.device)))
    words, shares = _words(checkpoint.tokenizer, answer_ids)
    if not words:
        raise BadRequestError("The answer has no words to look at.")
    maps = (shares @ watch.mean().cpu().numpy()).reshape(len(words), len(pictures), model.vision.patches)
    maps = maps[:, :, model.vision.specials - model.vision.dropped :]  # a class token is nowhere
    side = isqrt(maps.shape[-1])
    return Looked(
        words,
        [maps[:, number].reshape(-1, side, side) for number in range(len(pictures))],
        [box_of(checkpoint.preprocess, *picture.size) for picture in pictures],
    )


def ids_of(checkpoint: Checkpoint, conversation: Conversation, answer: str) -> list[int]:
    """An answer's text to ``conversation`` as ids, without STOP."""
    written = Conversation(conversation.id, (*conversation.turns, gpt(answer)))
    prompt = checkpoint.renderer.encode_prompt(conversation).ids
    whole = checkpoint.renderer.encode(written)
    return whole.ids[len(prompt) : whole.answered[-1].length - len(checkpoint.stop)]


def box_of(preprocess: Preprocessor, width: int, height: int) -> Box:
    """What of a picture of this size an encoder sees: left, top, right, bottom as shares of its sides."""
    if preprocess.kind == "stretch":
        return (0.0, 0.0, 1.0, 1.0)
    if preprocess.kind == "pad":
        side = seen = max(width, height)
        left, top = -((side - width) // 2), -((side - height) // 2)
    else:
        seen, short = preprocess.size, preprocess.shortest or preprocess.size
        long = int(short * max(width, height) / min(width, height))
        width, height = (short, long) if width <= height else (long, short)
        left, top = (width - seen) // 2, (height - seen) // 2
    return (left / width, top / height, (left + seen) / width, (top + seen) / height)


class _Watch:
    """Attends causally, and sums up the weights of the rows from ``first`` on, on ``columns``."""

    def __init__(self, first: int, columns: Tensor) -> None:
        self._first, self._columns = first, columns
        self._sum: Tensor | None = None
        self._layers = 0
        self._plain = Layout(())  # keeps the masks

    def mean(self) -> Tensor:
        """[R, C], over layers and heads."""
        assert self._sum is not None
        return self._sum / self._layers

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """[1, H, N, d], [1, G, N, d] twice -> [1, H, N, d]."""
        found = self._weights(query[0, :, self._first :].float(), key[0].float(), how)
        self._sum = found if self._sum is None else self._sum + found
        self._layers += 1
        return attend_to_end(query, key, value, how, self._plain)

    def _weights(self, query: Tensor, key: Tensor, how: How) -> Tensor:
        """[H, R, d], [G, N, d] -> [R, C], mean over the heads."""
        heads, tokens = query.shape[0], key.shape[1]
        key = key.repeat_interleave(heads // key.shape[0], 0).transpose(-1, -2)
        rows = max(1, _AT_ONCE // (heads * tokens))
        found = []
        for start in range(0, query.shape[1], rows):
            scores = query[:, start : start + rows] @ key * (how.scaling or query.shape[-1] ** -0.5)
            if how.softcap is not None:
                scores = how.softcap * torch.tanh(scores / how.softcap)
            back = self._first + start + torch.arange(scores.shape[1], device=key.device)[:, None]
            back = back - torch.arange(tokens, device=key.device)
            seen = back >= 0 if how.window is None else (back >= 0) & (back < how.window)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            found.append(weights[..., self._columns].mean(0))
        return torch.cat(found)


def _refuse(checkpoint: Checkpoint, places: int, pictures: int, prompt: int, answer: int) -> None:
    most = checkpoint.recipe.max_length
    if not checkpoint.model.computing.packs:
        kind = checkpoint.model.language_model.config.model_type
        raise BadRequestError(f"What a {kind} looked at cannot be shown: it does not only attend.")
    if not pictures or not answer:
        raise BadRequestError(f"There is no {'answer' if pictures else 'picture'} to look at.")
    if places != pictures:
        raise BadRequestError(f"{pictures} pictures for {places} places in the conversation.")
    if prompt + answer > most:
        raise BadRequestError(
            f"Conversation and answer take {prompt + answer} tokens, {prompt + answer - most} more than the "
            f"{most} that the model reads. Look at an earlier answer."
        )


def _words(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """The words of an answer, and each token's share in each, float32 [words, tokens]; rows add up to 1.

    A token that ends one word and begins the next counts for both, one of bytes for the character they make.
    """
    words: list[str] = []
    members: list[list[int]] = []
    writer, waiting, apart = Writer(tokenizer), 0, True
    for number in range(len(ids)):
        piece = writer.write(ids[: number + 1], last=number == len(ids) - 1)
        for part in re.findall(r"\s+|\S+", piece):
            if part.isspace():
                apart = True
                continue
            if apart:
                words.append("")
                members.append([])
            words[-1] += part
            members[-1] += range(waiting, number + 1)
            apart = False
        waiting = number + 1 if piece else waiting
    shares = np.zeros((len(words), len(ids)), np.float32)
    for row, numbers in enumerate(members):
        shares[row, numbers] = 1 / len(numbers)
    return words, shares
