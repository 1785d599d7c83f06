"""Attention of what is being read to what was read before.

Rows lie one after another in one packed row of N new tokens, none of them padded. Several new tokens of a row
are one SDPA call; one new token of each row is a few products for all rows together, in which a stretch that
rows share is looked at once for all of them.

Shapes: H heads, G key-value heads, d width of a head, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vistune.model.attention import How, attend_to_end
from vistune.model.decode.keys import Slots, Stretch


class ReadStretches:
    """New stretches, read side by side; each is causal, after what it goes on from."""

    def __init__(self, stretches: Sequence[Stretch], lengths: Sequence[int]) -> None:
        self._stretches, self._lengths = stretches, lengths

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """[1, H, N, d], [1, G, N, d] twice -> [1, H, N, d]."""
        pieces = zip(*(x.split(list(self._lengths), dim=2) for x in (query, key, value)), strict=True)
        attended = [
            attend_to_end(q, *stretch.extend(module.layer_idx, k, v), how)
            for stretch, (q, k, v) in zip(self._stretches, pieces, strict=True)
        ]
        return torch.cat(attended, dim=2)


class ReadRows:
    """The next tokens of some slots, several of each."""

    def __init__(self, slots: Slots, numbers: Sequence[int], lengths: Sequence[int]) -> None:
        self._slots, self._numbers, self._lengths = slots, numbers, lengths

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """[1, H, N, d], [1, G, N, d] twice -> [1, H, N, d]."""
        pieces = zip(*(x.split(list(self._lengths), dim=2) for x in (query, key, value)), strict=True)
        attended = [
            attend_to_end(q, *self._slots.extend(number, module.layer_idx, k, v), how)
            for number, (q, k, v) in zip(self._numbers, pieces, strict=True)
        ]
        return torch.cat(attended, dim=2)


class ReadOne:
    """The next token of every slot."""

    def __init__(self, slots: Slots, device: torch.device) -> None:
        self._slots, self._device = slots, device
        self._places = max(slots.lengths) + 1
        groups: dict[int, tuple[Stretch, list[int]]] = {}
        for number, stretch in enumerate(slots.stretches):
            if stretch is not None:
                groups.setdefault(id(stretch), (stretch, []))[1].append(number)
        self._groups = [(stretch, _members(rows, device), len(rows)) for stretch, rows in groups.values()]
        self._most = max((stretch.length for stretch, _, _ in self._groups), default=0)
        self._numbers = torch.arange(len(slots), device=device)
        self._ends = torch.tensor(slots.lengths, device=device)
        starts = [stretch.length if stretch else 0 for stretch in slots.stretches]
        self._starts = torch.tensor(starts, device=device)
        self._masks: dict[int | None, Tensor] = {}

    def _hidden(self, window: int | None) -> Tensor:
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> Tensor:
        """[B, stretch's places + own places], true where a row must not look."""
        own = torch.arange(self._places, device=self._device)
        shared = torch.arange(self._most, device=self._device)
        hidden = torch.cat([shared >= self._starts[:, None], own > self._ends[:, None]], 1)
        if window is not None:
            seen_from = self._starts + self._ends - window  # the last place that is too far back
            far = [shared <= seen_from[:, None], own <= (seen_from - self._starts)[:, None]]
            hidden = hidden | torch.cat(far, 1)
        return hidden

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """[1, H, B, d], [1, G, B, d] twice -> [1, H, B, d]."""
        layer, rows, heads = module.layer_idx, len(self._slots), key.shape[1]
        keys, values = self._slots.append(
            layer, key[0].transpose(0, 1), value[0].transpose(0, 1), self._numbers, self._ends
        )
        keys, values = keys[:, :, : self._places], values[:, :, : self._places]
        scale = how.scaling or query.shape[-1] ** -0.5
        asked = query[0].transpose(0, 1).reshape(rows, heads, -1, query.shape[-1]) * scale
        scores = asked.new_zeros((*asked.shape[:3], self._most + self._places))
        for stretch, members, count in self._groups:
            together = _by_head(asked[members])
            found = together @ stretch.keys[layer][0].transpose(-1, -2)
            scores[members, :, :, : stretch.length] = _by_row(found, count)
        scores[..., self._most :] = asked @ keys.transpose(-1, -2)
        if how.softcap is not None:
            scores = how.softcap * torch.tanh(scores / how.softcap)
        scores = scores.masked_fill(self._hidden(how.window)[:, None, None], -torch.inf)
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        attended = weights[..., self._most :] @ values
        for stretch, members, count in self._groups:
            together = _by_head(weights[members, :, :, : stretch.length])
            attended[members] += _by_row(together @ stretch.values[layer][0], count)
        return attended.reshape(rows, query.shape[1], -1).transpose(0, 1)[None]


def _members(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """Neighbours as a slice: nothing is copied to look at them."""
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first + 1 == len(rows) else torch.tensor(rows, device=device)


def _by_head(x: Tensor) -> Tensor:
    """[rows, G, R, w] -> [G, rows * R, w]: one product for all rows that share keys."""
    return x.transpose(0, 1).flatten(1, 2)


def _by_row(x: Tensor, rows: int) -> Tensor:
    """[G, rows * R, w] -> [rows, G, R, w]."""
    return x.unflatten(1, (rows, -1)).transpose(0, 1)
