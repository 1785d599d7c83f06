"""The decode loop: prompts as token ids in, token ids out. The only one in the project.

Evaluation decodes batches, chat decodes one prompt; both drive :func:`decode`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vistune.model.llava import Llava


@torch.inference_mode()
def decode(
    model: Llava, prompts: Sequence[Sequence[int]], pixels: Tensor | None, stop: Sequence[int], most: int
) -> Iterator[list[int | None]]:
    """Greedy decoding, a step at a time.

    Args:
        prompts: B lists of ids; padded on the left here, so that a batch answers as each alone would.
        pixels: pictures of all prompts in reading order, [N, 3, H, W].
        stop: the ids that end an answer; they are yielded too.
        most: new tokens at most.

    Yields:
        For each prompt the next id, or None once it has ended.
    """
    ids, mask = _pad_left(prompts, model.device)
    embeddings = model.embed(ids, pixels)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = None
    tails: list[list[int]] = [[] for _ in prompts]
    for _ in range(most):
        output = model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen = _choose(output.logits[:, -1], model.image_token)
        alive = [not _ended(tail, stop) for tail in tails]
        yield [int(token) if live else None for token, live in zip(chosen, alive, strict=True)]
        for tail, token, live in zip(tails, chosen.tolist(), alive, strict=True):
            if live:
                tail.append(token)
        if all(_ended(tail, stop) for tail in tails):
            return
        embeddings = model.embed(chosen[:, None], None)
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1


def complete(
    model: Llava, prompts: Sequence[Sequence[int]], pixels: Tensor | None, stop: Sequence[int], most: int
) -> list[list[int]]:
    """Whole answers, without their STOP."""
    answers: list[list[int]] = [[] for _ in prompts]
    for step in decode(model, prompts, pixels, stop, most):
        for answer, token in zip(answers, step, strict=True):
            if token is not None:
                answer.append(token)
    return [answer[: -len(stop)] if _ended(answer, stop) else answer for answer in answers]


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _choose(logits: Tensor, image_token: int) -> Tensor:
    """The likeliest token [B]; a picture's placeholder is never said."""
    logits[:, image_token] = -torch.inf
    return logits.argmax(-1)


def _ended(tail: Sequence[int], stop: Sequence[int]) -> bool:
    return list(tail[-len(stop) :]) == list(stop)
