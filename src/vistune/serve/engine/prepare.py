"""A request -> what the model reads: ids, pixels, and the marks by which what was read before is found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vistune.conversation import picture_first
from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import marks_of
from vistune.serve.engine.engine import BadRequestError, ChatRequest


@dataclass(frozen=True)
class Prepared:
    """Attributes:
    ids: the prompt, an image token for each patch.
    marks: [T], see :func:`vistune.model.decode.marks_of`.
    pixels: [I, 3, H, W] of the pictures in reading order; None without pictures.
    most: new tokens at most.
    """

    ids: list[int]
    marks: np.ndarray
    pixels: Tensor | None
    most: int


def prepare(checkpoint: Checkpoint, request: ChatRequest) -> Prepared:
    """Make a request ready.

    Raises:
        BadRequestError: it is longer than the model reads, or asks for what cannot be.
    """
    conversation = request.conversation
    if checkpoint.recipe.picture == "first":  # as the model knows it; many clients send the words first
        conversation = picture_first(conversation)
    prompt = checkpoint.renderer.encode_prompt(conversation)
    context, wanted = checkpoint.recipe.max_length, request.sampling.max_tokens
    room = context - len(prompt.ids)
    over = len(prompt.ids) + (wanted or 1) - context
    if over > 0:
        answer = f" and its answer {wanted}" if wanted else ""
        shorter = ", or ask for a shorter answer" if wanted and room > 0 else ""
        raise BadRequestError(
            f"This conversation takes {len(prompt.ids)} tokens{answer}; the model reads {context}. That is "
            f"{over} too many. Shorten it{shorter}.",
            "messages",
        )
    squares = [checkpoint.preprocess(request.pictures[name]) for name in conversation.pictures]
    digests = [hashlib.blake2b(square.tobytes(), digest_size=8).digest() for square in squares]
    marks = marks_of(prompt.ids, checkpoint.model.image_token, digests)
    pixels = torch.from_numpy(np.stack(squares)) if squares else None
    return Prepared(prompt.ids, marks, pixels, wanted or room)
