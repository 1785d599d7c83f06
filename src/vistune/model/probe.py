"""Whether an LLM can be packed, and decoded by us, without computing something else than transformers does.

The question is asked of the LLM's twin (``twin.py``): small trees are trained on in one row and alone, with
loss and gradients compared; answers are written by our decoder and read in one piece. What no twin shows,
a position encoding that changes with the longest position, is read in the configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vistune.data.batch import Batch, to_batch, to_padded_batch
from vistune.errors import VistuneError
from vistune.model import probe_samples
from vistune.model.computing import Computing
from vistune.model.decode import Decoder, Row
from vistune.model.limits import uncap
from vistune.model.llava import Llava
from vistune.model.probe_samples import PICTURE, TREES
from vistune.model.threads import one_thread
from vistune.model.twin import VOCABULARY, twin

# Rounding moves losses and gradients by 1e-6 of their size, a leak by 1e-2 and more.
_SAME = 1e-3
_SEEDS = (0, 1)  # a leak shows with all weights; a router's near tie, broken otherwise in a row, with few
_WRITTEN = 4  # tokens of each answer

Learned = tuple[float, dict[str, Tensor]]


class _UnfitError(Exception):
    """The LLM cannot be used; the message says why."""


def judge(config: Any, max_length: int) -> Computing:
    """Say how the LLM of ``config`` may be computed.

    Args:
        max_length: tokens of the longest sample.

    Raises:
        VistuneError: it cannot be used at all.
    """
    config = config.get_text_config(decoder=True)
    reach = _reach(config)
    try:
        found = _judge(_Key(config))
    except _UnfitError as error:
        raise VistuneError(f"The LLM ({config.model_type}): {error}. Choose another one.") from error
    if reach is None or not found.packs:
        return found
    beyond = f"beyond {reach} tokens its position encoding depends on the longest position of a row"
    rows, why_rows = ("packed", "") if max_length <= reach else ("single", beyond)
    longest = getattr(config, "max_position_embeddings", None) or max_length
    decodes, why = ("shared", "") if max(longest, max_length) <= reach else ("alone", beyond)
    return Computing(rows, decodes, why_rows, why)  # type: ignore[arg-type]


def _reach(config: Any) -> int | None:
    """How many tokens the position encoding is the same for, whatever else is in the row; None: all.

    See ``transformers.modeling_rope_utils``.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    reaches = [
        kind.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(reaches, default=None)


class _Key:
    """A configuration, equal to another that says the same."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._said = config.to_json_string(use_diff=False)

    def __hash__(self) -> int:
        return hash(self._said)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other._said == self._said


@lru_cache(maxsize=16)
def _judge(key: _Key) -> Computing:
    # The caller's draws and modes are its own.
    with (
        torch.random.fork_rng(devices=[]),
        one_thread(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.device("cpu"),
    ):
        return _Probe(key.config).verdict()


class _Probe:
    """One LLM under test."""

    def __init__(self, config: Any) -> None:
        self._twin = lru_cache(partial(twin, config))
        self._one_by_one = lru_cache(self._learned_one_by_one)

    def _new(self, seed: int = 0) -> Any:
        """A twin, to be changed at will; the same for the same seed."""
        return copy.deepcopy(self._twin(seed))

    def verdict(self) -> Computing:
        """Compare, from what must hold to what may.

        Raises:
            _UnfitError: what must hold does not.
        """
        for check in (self._check_embeddings, self._check_causal, self._check_llava):
            _explained(check)
        rows, why_rows = self._rows()
        decodes, why_decodes = ("alone", why_rows) if rows != "packed" else self._decodes()
        return Computing(rows, decodes, why_rows, why_decodes)  # type: ignore[arg-type]

    def _check_embeddings(self) -> None:
        """Embeddings, decoder and head are all there is."""
        model = self._new()
        uncap(model.config)
        ids = probe_samples.sequences()[0][None]
        with torch.no_grad():
            ours = model.get_output_embeddings()(_hidden(model, ids))
            theirs = model(input_ids=ids, use_cache=False).logits
        if ours.shape != theirs.shape or not _alike(ours, theirs):
            raise _UnfitError(
                "it does more than embeddings, decoder and LM head, all that LLaVA's format holds"
            )

    def _check_causal(self) -> None:
        """Later tokens change nothing."""
        model, ids = self._new(), probe_samples.sequences()[0][None]
        short = ids[:, : ids.shape[1] // 2]
        with torch.no_grad():
            if not _alike(_hidden(model, ids)[:, : short.shape[1]], _hidden(model, short)):
                raise _UnfitError("it is not causal: what a token means depends on the tokens after it")

    def _check_llava(self) -> None:
        """transformers' LLaVA computes and writes with it what it computes by itself."""
        model, ids = self._new(), probe_samples.sequences()[0][None]
        try:
            whole = _in_llava(model)
        except (AttributeError, TypeError, ValueError) as error:
            raise _UnfitError(f"transformers' LLaVA cannot be built with it ({_in_short(error)})") from error
        with torch.no_grad():
            expected = model.get_output_embeddings()(_hidden(model, ids))
            found = whole(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            if not _alike(found, expected):
                raise _UnfitError("transformers' LLaVA computes something else with it")
            written = _generated(whole, ids)
        row = Row(ids[0].tolist(), _WRITTEN)
        decoder = Decoder(_blind(model, Computing("single", "alone")), [VOCABULARY])
        ended = decoder.join([row])
        while not ended:
            ended = decoder.step()
        if row.written != written:
            raise _UnfitError("transformers' LLaVA writes something else with it than with its own cache")

    def _rows(self) -> tuple[str, str]:
        """How it can be trained, and why not packed."""
        why = self._differs(self._packed, lambda seed: 0.0)
        if not why:
            return "packed", ""
        return ("single" if self._differs(self._padded, self._rounding) else "padded"), why

    def _differs(self, learn: Callable[[int], Learned], rounding: Callable[[int], float]) -> str:
        """Why what is learned so is not what is learned one by one; empty if it is.

        Args:
            rounding: a gap, for a seed, that rounding alone may make.
        """
        gaps = []
        try:
            for seed in _SEEDS:
                gaps.append(_gap(learn(seed), self._one_by_one(seed)))
                if gaps[-1] <= _SAME or gaps[-1] <= rounding(seed):
                    return ""
        except Exception as error:  # whatever transformers' model raises, it cannot be computed so
            return f"its attention cannot be replaced ({_in_short(error)})"
        return f"its samples see each other in a row (gradients differ by {min(gaps):.1%})"

    def _rounding(self, seed: int) -> float:
        """The gap that weights make which differ in their last bit.

        Deep recurrent models (Qwen3-Next) turn that into several percent. Packing must not hide behind it:
        where it is off for nothing, only time is lost.
        """
        return _gap(self._learned_one_by_one(seed, nudge=1e-7), self._one_by_one(seed))

    def _learned_one_by_one(self, seed: int, nudge: float = 0.0) -> Learned:
        """As transformers computes it: no layout, no padding, its own attention.

        Args:
            nudge: a share by which each weight is changed at random.
        """
        language_model = self._new(seed)
        with torch.no_grad():
            for weight in language_model.parameters() if nudge else ():
                weight.mul_(1 + nudge * torch.randn_like(weight))
        model = _blind(language_model, Computing("single", "alone"))
        rows = map(probe_samples.row, probe_samples.alone())
        return _learned(model, [to_padded_batch(row, PICTURE) for row in rows])

    def _packed(self, seed: int) -> Learned:
        model = _blind(self._new(seed), Computing())
        ids = probe_samples.sequences()[0][None]
        with torch.no_grad():  # called without a layout, too, attention must be what it was
            plain = _hidden(self._new(seed), ids)
            if not _alike(_hidden(model.language_model, ids), plain):
                raise ValueError("it needs more than queries, keys and values")
        return _learned(model, [to_batch(probe_samples.row(probe_samples.trees()))])

    def _padded(self, seed: int) -> Learned:
        model = _blind(self._new(seed), Computing("padded", "alone"))
        trees = [tree for (tree,) in probe_samples.alone()]
        return _learned(model, [to_padded_batch(probe_samples.row(trees), PICTURE)])

    def _decodes(self) -> tuple[str, str]:
        """Who can decode it, and why not we."""
        try:
            gap = min(self._decoding_gap(seed) for seed in _SEEDS)
        except Exception as error:  # see above
            return "alone", f"our decoder cannot compute it ({_in_short(error)})"
        return (
            ("alone", f"our decoder computes something else (by {gap:.1%})")
            if gap > _SAME
            else ("shared", "")
        )

    @torch.no_grad()
    def _decoding_gap(self, seed: int) -> float:
        """Dictate answers, some after a shared beginning; compare the logits with those of one reading."""
        model = _blind(self._new(seed), Computing())
        plain = self._new(seed)
        decoder = Decoder(model, [VOCABULARY])
        prefix, branches = TREES[0]
        sequences = probe_samples.sequences()
        (shared,) = decoder.read([sequences[0][:prefix].tolist()], None)
        seen: list[list[Tensor]] = [[] for _ in sequences]
        rows = []
        for number, ids in enumerate(sequences):
            follows = number < len(branches)
            start = prefix if follows else 0
            choose = _Dictation(ids[len(ids) - _WRITTEN :].tolist(), seen[number])
            rows.append(
                Row(
                    ids[start : len(ids) - _WRITTEN].tolist(),
                    _WRITTEN,
                    shared if follows else None,
                    choose=choose,
                )
            )
        decoder.join(rows[:-1])
        decoder.step()
        decoder.join(rows[-1:])  # later than the others
        while len(decoder):
            decoder.step()
        gaps = []
        for ids, logits in zip(sequences, seen, strict=True):
            expected = plain.get_output_embeddings()(_hidden(plain, ids[None]))[0, -_WRITTEN - 1 : -1]
            gaps.append(_distance(torch.stack(logits)[:, :PICTURE], expected[:, :PICTURE]))
        return max(gaps)


class _Dictation:
    """Writes what is given, and keeps the logits."""

    def __init__(self, tokens: list[int], seen: list[Tensor]) -> None:
        self._tokens, self._seen = tokens, seen

    def __call__(self, logits: Tensor) -> int:
        self._seen.append(logits.clone())
        return self._tokens[len(self._seen) - 1]


def _explained(check: Any) -> None:
    """Run a check.

    Raises:
        _UnfitError: it failed, or could not be made.
    """
    try:
        check()
    except (_UnfitError, VistuneError):
        raise
    except Exception as error:  # whatever transformers' model raises, it cannot be used
        raise _UnfitError(f"transformers cannot compute it from embeddings ({_in_short(error)})") from error


def _in_short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


def _blind(language_model: Any, computing: Computing) -> Llava:
    """The LLM as our model computes it; without eyes."""
    connector = nn.Linear(1, language_model.get_input_embeddings().weight.shape[1])
    return Llava(_NoVision(), connector, language_model, PICTURE, computing)  # type: ignore[arg-type]


class _NoVision(nn.Module):
    patches, width, trained = 1, 1, False


def _in_llava(model: Any) -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=8,
    )
    config = LlavaConfig(vision_config=vision, text_config=model.config, image_token_index=PICTURE)
    with torch.device("meta"):
        whole = LlavaForConditionalGeneration(config)
    if whole.model.language_model.state_dict().keys() != model.base_model.state_dict().keys():
        raise _UnfitError("LLaVA's format cannot hold its weights")
    whole.model.language_model, whole.lm_head = model.base_model, model.get_output_embeddings()
    return whole.eval()


def _generated(whole: Any, ids: Tensor) -> list[int]:
    """What transformers writes, greedily."""
    from transformers import GenerationConfig

    settings = GenerationConfig(max_new_tokens=_WRITTEN, do_sample=False, suppress_tokens=[PICTURE])
    whole.generation_config = GenerationConfig()
    answer = whole.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    written: list[int] = answer[0, ids.shape[1] :].tolist()
    return written


def _hidden(model: Any, ids: Tensor) -> Tensor:
    embeddings = model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    hidden: Tensor = model.base_model(
        inputs_embeds=embeddings, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return hidden


def _learned(model: Llava, batches: Sequence[Batch]) -> Learned:
    """The loss, and all gradients."""
    losses = [model(batch) for batch in batches]
    loss = torch.stack(losses).sum()
    loss.backward()
    llm = model.language_model
    return float(loss.detach()), {name: p.grad for name, p in llm.named_parameters() if p.grad is not None}


def _gap(one: Learned, other: Learned) -> float:
    """How far apart, as a share: of the loss, or of all gradients together."""
    if one[1].keys() != other[1].keys():
        return 1.0
    gradients = (torch.cat([learned[1][name].flatten() for name in other[1]]) for learned in (one, other))
    gap = max(abs(one[0] - other[0]) / abs(other[0]), _distance(*gradients))
    return gap if np.isfinite(gap) else 1.0


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and _distance(one, other) < _SAME
