"""A tiny random model of the same kind as an LLM: what holds for its structure holds for the LLM.

Widths, experts, vocabulary and windows shrink; what kind each layer is, how many there are, which position
encoding and which multipliers, stay. So a 13B model's twin takes milliseconds and kilobytes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

VOCABULARY = 128
_HIDDEN, _HEADS, _HEAD, _STATE, _WINDOW = 64, 4, 16, 8, 8

# What a setting shrinks to, by its name; the first pattern that fits the whole name counts. Nothing grows.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"(unpadded_)?vocab_size(_per_layer_input)?", VOCABULARY),
    (r"hidden_size|n_embd|d_model|emb_dim|embedding_(dim|size)|word_embed_proj_dim|lru_width", _HIDDEN),
    (r"hidden_size_per_layer_input|ple_embed_dim", _HEAD),
    (r"(.*_)?(intermediate_size|ffn_dim|ffn_hidden_size)(_mlp)?|n_inner|dff|dim_ff|d_inner", 96),
    (r"((swa|num)_.*)?attention_heads(_per_layer)?|decoder_attention_heads|n_heads?|num_heads", _HEADS),
    (r"(linear_num|index_n)_(value_)?heads", _HEADS),
    (r"linear_num_key_heads|(mamba_)?n_groups|mamba_ngroups|topk_group", 2),
    (r"qk_head_dim", 2 * _HEAD),
    (r"(.*_)?head_(dim|size)|dim_head|kv_channels|mamba_d_head|mamba_headdim|d_head", _HEAD),
    (r"(kv|q|o)_lora_rank|.*_(lora|gated_norm|adapter)_rank|hc_lowrank|laurel_rank", _HEAD),
    (r"rotary_dim", _HEAD // 2),
    (r"mamba_d_ssm", 2 * _HIDDEN),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 2 * _HIDDEN // _HEAD),
    (r"(mamba_d_)?state(_size)?|ssm_state_size", _STATE),
    (r"(time_step|mamba_dt)_rank", 4),
    (r"(.*_)?(num|n)_(local_|routed_)?experts|num_local_experts", 4),
    (r"(.*_)?(experts_per_tok(en)?|topk)|moe_k|top_k", 2),
    (r"n_group|num_expert_group|zero_expert_num|o_groups", 2),
    (r"(.*_)?(sliding_window(_size)?|window_size)|local_attention|.*chunk_(size|length)", _WINDOW),
    (r"block_size|index_block_size|index_topk|keep_window_size|rel_extent", _WINDOW),
    (r"dim_model_base", _HEAD),
)
_KEY_HEADS = (
    "num_key_value_heads",
    "swa_num_key_value_heads",
    "num_kv_heads",
    "n_kv_heads",
    "num_query_groups",
)
_WIDE = ("attention_hidden_size",)  # once or twice the hidden size
_SPECIAL = re.compile(r".*_(token_id|index)")


def shrunk(config: Any) -> Any:
    """A copy of an LLM's configuration, its widths shrunk."""
    small = copy.deepcopy(config)
    _shrink(small)
    return small


def twin(config: Any, seed: int = 0) -> Any:
    """A random causal LM of the :func:`shrunk` configuration, in float32 on the CPU, ready to compute.

    Weights are as large as those of a trained model are to its inputs: with the tiny ones that models begin
    with, a leak would drown in rounding.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shrunk(config), dtype=torch.float32)
        _enliven(model)
    return model.eval()


def _shrink(config: Any) -> None:
    values = dict(_numbers(config))
    heads = next(
        (v for k, v in values.items() if _size(k) == _HEADS and "key" not in k and "kv" not in k), None
    )
    fewer = _fewer_heads(heads)
    for name, value in values.items():
        if name in _KEY_HEADS:
            setattr(config, name, value if value <= 1 else fewer if value == heads else min(2, fewer))
        elif _size(name) == _HEADS and value == heads:
            setattr(config, name, fewer)
        elif name in _WIDE:
            setattr(config, name, _HIDDEN * max(1, value // values.get("hidden_size", value)))
        elif _SPECIAL.fullmatch(name):
            setattr(config, name, min(value, VOCABULARY - 1))
        elif (size := _size(name)) is not None:
            setattr(config, name, min(value, size))
    if "mamba_d_ssm" in values:
        config.mamba_d_ssm = config.mamba_n_heads * config.mamba_d_head
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and value and all(type(x) is int for x in value):
            if _SPECIAL.fullmatch(name):
                setattr(config, name, [min(x, VOCABULARY - 1) for x in value])
            elif (size := _size(name)) is not None:
                setattr(config, name, [min(x, size) for x in value])
        elif hasattr(value, "to_dict"):  # a configuration of its own, such as MPT's of attention
            _shrink(value)


def _fewer_heads(heads: int | None) -> int:
    """A number of heads that divides every width here: 4, or what a small model has."""
    return _HEADS if heads is None or heads >= _HEADS else 1 if heads == 3 else heads


def _numbers(config: Any) -> Iterator[tuple[str, int]]:
    return ((name, value) for name, value in vars(config).items() if type(value) is int)


def _size(name: str) -> int | None:
    return next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), None)


@torch.no_grad()
def _enliven(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter.add_(0.1 * torch.randn_like(parameter))
            continue
        wanted, found = parameter.shape[-1] ** -0.5, float(parameter.std())
        if found == 0:
            parameter.normal_(0, wanted)
        elif found < wanted:
            parameter.mul_(wanted / found)
