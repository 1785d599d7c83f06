"""How an LLM may be computed, by what its twin does: packed, alone, or not at all."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from vistune.errors import VistuneError
from vistune.model.probe import _Probe, judge
from vistune.model.twin import shrunk, twin

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY = {
    **SMALL,
    "num_hidden_layers": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "pad_token_id": None,
}
LFM2 = {**TINY, "layer_types": ["conv", "full_attention"]}


def lfm2() -> transformers.Lfm2Config:
    return transformers.Lfm2Config(**LFM2)


def test_a_llama_is_packed_and_decoded_by_us() -> None:
    found = judge(transformers.LlamaConfig(**TINY), 512)
    assert (found.rows, found.decodes, list(found.lines())) == ("packed", "shared", [])


def test_recurrent_state_is_found_and_told() -> None:
    found = judge(lfm2(), 512)
    assert (found.rows, found.decodes) == ("padded", "alone")
    assert "samples see each other in a row" in found.why_rows
    assert [line.split(":")[0] for line in found.lines()] == [
        "packing is off",
        "answers are written one by one with transformers' cache",
    ]


def test_attention_sinks_go_alone() -> None:
    config = transformers.GptOssConfig(**TINY, num_local_experts=4, num_experts_per_tok=2, head_dim=8)
    assert judge(config, 512).rows == "padded"


def test_an_attention_that_is_called_twice_a_layer_is_packed_but_not_decoded_by_us() -> None:
    found = judge(transformers.DiffLlamaConfig(**TINY), 512)
    assert (found.rows, found.decodes) == ("packed", "alone")


@pytest.mark.parametrize(
    "config, reason",
    [
        (
            transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=300),
            "LLaVA cannot be built with it",
        ),
        (transformers.CohereConfig(**TINY, logit_scale=0.5), "more than embeddings, decoder and LM head"),
        (
            transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=300),
            "LLaVA cannot be built",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(config, reason: str) -> None:
    with pytest.raises(VistuneError, match=reason):
        judge(config, 512)


def phi3(most: int) -> transformers.Phi3Config:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
        "factor": 4.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
    }
    sizes = {**TINY, "max_position_embeddings": most, "bos_token_id": None, "eos_token_id": None}
    return transformers.Phi3Config(
        **sizes, original_max_position_embeddings=64, rope_parameters=rope, sliding_window=None
    )


def test_positions_that_change_with_the_longest_are_packed_only_below_it() -> None:
    assert judge(phi3(256), 64).rows == "packed"
    assert judge(phi3(256), 65).rows == "single"
    # An answer may be written beyond what was trained on.
    assert judge(phi3(256), 64).decodes == "alone"
    assert judge(phi3(64), 64).decodes == "shared"
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    dynamic = transformers.LlamaConfig(**{**TINY, "max_position_embeddings": 64}, rope_parameters=rope)
    assert (judge(dynamic, 64).rows, judge(dynamic, 65).rows) == ("packed", "single")


def test_longrope_does_leak_beyond_its_original_length() -> None:
    """What the rule is for: a row in which one position is long computes all others otherwise."""
    torch.manual_seed(0)
    model = transformers.Phi3ForCausalLM(phi3(256)).eval()
    ids, short = torch.arange(80)[None] + 5, torch.arange(20)[None]
    long = torch.cat([short, torch.arange(20, 80)[None]], 1)
    with torch.no_grad():
        alone = model.model(input_ids=ids[:, :20], position_ids=short).last_hidden_state
        beside = model.model(input_ids=ids, position_ids=long).last_hidden_state[:, :20]
    assert not torch.allclose(alone, beside, atol=1e-2)


def test_a_verdict_is_found_once_for_configurations_that_say_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = transformers.LlamaConfig(**{**TINY, "num_hidden_layers": 1})
    first = judge(config, 512)
    monkeypatch.setattr(_Probe, "verdict", lambda _: pytest.fail("probed again"))
    assert judge(transformers.LlamaConfig(**{**TINY, "num_hidden_layers": 1}), 100) is first


def test_the_probe_leaves_no_trace() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    config = transformers.Qwen2Config(**TINY)
    before = json.dumps(config.to_dict(), default=str)
    with torch.inference_mode():
        judge(config, 512)
    assert torch.equal(torch.rand(1), expected) and json.dumps(config.to_dict(), default=str) == before


def test_a_twin_keeps_what_each_layer_is_and_shrinks_the_rest() -> None:
    config = transformers.Gemma2Config()
    small = shrunk(config)
    assert small.layer_types == config.layer_types and small.num_hidden_layers == config.num_hidden_layers
    assert (small.num_attention_heads, small.num_key_value_heads, small.sliding_window) == (4, 2, 8)
    assert sum(p.numel() for p in twin(config).parameters()) < 2e6
    assert torch.equal(twin(config).lm_head.weight, twin(config).lm_head.weight)


def test_a_model_that_makes_much_of_rounding_is_not_taken_for_one_that_padding_changes() -> None:
    """Qwen3-Next's gradients differ by up to 11% where only the order of a sum does."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert judge(transformers.Qwen3NextConfig(), 512).rows == "padded"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
