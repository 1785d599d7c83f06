"""Attention over packed trees, for the decoder LLMs of transformers that let theirs be replaced.

Registered with transformers as one more attention implementation. A model that is called with ``layout=``
attends as the layout says; called without, as always (SDPA). In training the layout is :class:`Layout`, trees
packed into a row: a prefix is causal, a branch attends to its tree's prefix and causally to itself. Decoding
has layouts of its own (``decode/reading.py``).

On the CPU each prefix and each branch is a small SDPA call of its own: nothing that is masked is computed.
On CUDA the whole row is one FlexAttention call, whose block mask skips what is masked.

Shapes: H heads, G key-value heads, N tokens of the row, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from vistune.data.pack import Tree
from vistune.errors import VistuneError
from vistune.model.blocks import block_mask

NAME = "vistune_tree"


class Arrangement(Protocol):
    """How the tokens of a packed row attend."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """[1, H, N, d], [1, G, N, d] twice -> [1, H, N, d]; ``module`` is the calling layer's."""
        ...


@dataclass(frozen=True)
class How:
    """What the model asks of its attention; ``softcap`` bounds scores by softcap * tanh(score / softcap)."""

    scaling: float | None
    dropout: float
    window: int | None
    softcap: float | None


@dataclass
class Layout:
    """Where trees and their branches lie in a row of N tokens; places beyond them belong to nobody.

    Attributes:
        predicting: the places that predict what is trained on, each once; None: any may.
    """

    trees: Sequence[Tree]
    predicting: Tensor | None = None
    _masks: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def pieces(self) -> list[int]:
        """Lengths of prefixes and branches in the row's order."""
        return [length for tree in self.trees for length in (tree.prefix, *tree.branches)]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """See :class:`Arrangement`."""
        kernel = _flex if query.device.type == "cuda" and how.dropout == 0.0 else _sliced
        return kernel(query, key, value, self, how)

    def branch_mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """[queries, keys], true where a branch's place may look; its keys end with its own places."""
        if (queries, keys, window) not in self._masks:
            back = torch.arange(keys, device=device) - (
                torch.arange(queries, device=device)[:, None] + keys - queries
            )
            mask = back <= 0 if window is None else (back <= 0) & (back > -window)
            self._masks[queries, keys, window] = mask
        mask_of: Tensor = self._masks[queries, keys, window]
        return mask_of

    def block_mask(self, tokens: int, window: int | None, device: torch.device) -> Any:
        """FlexAttention's mask of the whole row."""
        if ("flex", window) not in self._masks:
            self._masks["flex", window] = block_mask(self.trees, tokens, window, device)
        return self._masks["flex", window]


def prepare(language_model: Any) -> None:
    """Let ``language_model`` attend over trees where it is given a layout.

    Raises:
        VistuneError: the model's attention cannot be replaced.
    """
    _register()
    try:
        language_model.set_attn_implementation(NAME)
    except ValueError as error:
        raise VistuneError(
            f"{type(language_model).__name__}: its attention cannot be replaced ({error}). "
            "Choose another LLM."
        ) from error


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def given_mask(device: torch.device) -> Tensor:
    """What to pass as attention mask beside a layout: a mask that transformers takes for ready-made."""
    return torch.empty((1, 1, 0, 0), dtype=torch.bool, device=device)


@torch.compiler.disable  # a row's layout is new each time; compiled layers are cut here
def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Arrangement | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """[1, H, N, d], [1, G, N, d] twice -> [1, N, H, d]; transformers' attention interface."""
    how = How(scaling, dropout, sliding_window, softcap)
    if layout is None:
        return _as_always(module, query, key, value, attention_mask, how, others)
    if s_aux is not None:
        raise VistuneError("Attention sinks (s_aux) cannot be packed. Choose another LLM.")
    return layout.attend(module, query, key, value, how).transpose(1, 2).contiguous(), None


def _as_always(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    how: How,
    others: dict[str, Any],
) -> tuple[Tensor, None]:
    if how.softcap is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        settings = {"dropout": how.dropout, "scaling": how.scaling, "sliding_window": how.window, **others}
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **settings)
        return attended
    if mask is None:
        mask = Layout(()).branch_mask(query.shape[2], key.shape[2], how.window, query.device)
    return _softcapped(query, key, value, mask, how).transpose(1, 2), None


def _sliced(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: How) -> Tensor:
    """A call for each prefix and each branch. Splitting, not slicing: its gradient is one concatenation."""
    pieces = layout.pieces
    rest = query.shape[2] - sum(pieces)
    queries, keys, values = (x.split([*pieces, rest], dim=2) for x in (query, key, value))
    attended: list[Tensor] = []
    number = 0
    for tree in layout.trees:
        root = number
        for _ in (tree.prefix, *tree.branches):
            k, v = keys[number], values[number]
            if number > root and tree.prefix:
                k, v = torch.cat([keys[root], k], 2), torch.cat([values[root], v], 2)
            if queries[number].shape[2]:
                attended.append(attend_to_end(queries[number], k, v, how, layout))
            number += 1
    nobodys = query.new_zeros((*query.shape[:2], rest, value.shape[3]))  # as wide as values, not as queries
    return torch.cat([*attended, nobodys], dim=2)


def attend_to_end(
    query: Tensor, key: Tensor, value: Tensor, how: How, layout: Layout | None = None
) -> Tensor:
    """Causal attention of the last places of ``key`` to all of it; ``layout`` keeps its masks."""
    queries, keys = query.shape[2], key.shape[2]
    window = None if how.window is None or keys <= how.window else how.window
    layout = layout or Layout(())
    if how.softcap is not None:
        mask = layout.branch_mask(queries, keys, window, query.device)
        return _softcapped(query, key, value, mask, how)
    plain = queries == keys and window is None
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if plain else layout.branch_mask(queries, keys, window, query.device),
        is_causal=plain,
        dropout_p=how.dropout,
        scale=how.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _softcapped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: How) -> Tensor:
    """What SDPA does, with scores bounded (Gemma 2), which SDPA does not know."""
    assert how.softcap is not None
    heads = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(heads, 1), value.repeat_interleave(heads, 1)
    scores = query @ key.transpose(-1, -2) * (how.scaling or query.shape[-1] ** -0.5)
    scores = how.softcap * torch.tanh(scores / how.softcap)
    allowed = mask if mask.dtype == torch.bool else mask == 0
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1, dtype=torch.float32)
    return functional.dropout(weights.to(query.dtype), how.dropout, training=how.dropout > 0) @ value


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: How) -> Tensor:
    softcap = how.softcap or 1.0  # used only where it is given

    def cap(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    attended: Tensor = _flex_kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=None if how.softcap is None else cap,
        block_mask=layout.block_mask(query.shape[2], how.window, query.device),
        scale=how.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended


@cache
def _flex_kernel(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device == "cuda" else flex_attention
