"""Adapters: what is trained, what is saved, and that saving disturbs nothing."""

import copy
import re

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.tiny import IMAGE_SIZE, tiny_checkpoint, tiny_llm
from vistune.errors import VistuneError
from vistune.model import adapters
from vistune.model.adapters import (
    add_adapters,
    experts_note,
    has_adapters,
    merged_state,
    nf4,
    quantisation,
)
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.recipe import LoraRecipe

pytestmark = pytest.mark.filterwarnings("ignore")
LORA = LoraRecipe(rank=4, alpha=8, dropout=0.0)
LINEAR_LAYERS = 2 * 7  # of each of the two layers: q, k, v, o, gate, up, down


def adapter_state(language_model):
    """The adapters' weights by name. Not copies."""
    return {name: p.detach() for name, p in language_model.named_parameters() if ".lora_" in name}


def disturb(language_model):
    """Adapters begin as zero: give them something to say."""
    generator = torch.Generator().manual_seed(3)
    for tensor in adapter_state(language_model).values():
        tensor += 0.03 * torch.randn(tensor.shape, generator=generator)


@pytest.fixture
def adapted(tokenizer):
    checkpoint = tiny_checkpoint(tokenizer)
    add_adapters(checkpoint.model.language_model, LORA, seed=0)
    disturb(checkpoint.model.language_model)
    return checkpoint


def logits(model, ids, pixels):
    return model.language_model(inputs_embeds=model.embed(ids, pixels), use_cache=False).logits


@pytest.fixture
def sample(tokenizer):
    ids = torch.tensor([[2, 2, 2, 2, *tokenizer.encode("What is in the picture?")]])
    return ids, torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_saved_checkpoint_has_the_adapters_merged(adapted, sample, tmp_path):
    save_checkpoint(adapted, tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    assert not has_adapters(loaded.model)
    ours = logits(adapted.model, *sample)
    torch.testing.assert_close(logits(loaded.model, *sample), ours, atol=1e-5, rtol=1e-5)
    with_nothing_learned = logits(tiny_checkpoint(adapted.tokenizer).model, *sample)
    assert (ours - with_nothing_learned).abs().max() > 0.02


def test_saving_leaves_every_weight_and_gradient_as_it_was(adapted, sample, tmp_path):
    adapted.model.set_trained({"connector"})
    adapters.train_adapters(adapted.model.language_model)
    logits(adapted.model, *sample).square().mean().backward()
    before = {name: p.detach().clone() for name, p in adapted.model.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in adapted.model.named_parameters() if p.grad is not None}
    save_checkpoint(adapted, tmp_path / "saved")
    for name, parameter in adapted.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name]), name


def test_only_the_adapters_and_the_connector_get_gradients(adapted, sample):
    adapted.model.set_trained({"connector"})
    trained = adapters.train_adapters(adapted.model.language_model)
    logits(adapted.model, *sample).square().mean().backward()
    with_gradient = {name for name, p in adapted.model.named_parameters() if p.grad is not None}
    lora = {name for name in with_gradient if "lora_" in name}
    assert len(lora) == 2 * LINEAR_LAYERS
    assert with_gradient - lora == {"connector.layers.0.weight", "connector.layers.0.bias"}
    assert trained == sum(x.numel() for x in adapter_state(adapted.model.language_model).values())


def test_a_new_adapter_changes_nothing_and_leaves_the_head_alone(tokenizer, sample):
    model = tiny_checkpoint(tokenizer).model
    before = logits(model, *sample)
    count = add_adapters(model.language_model, LORA, seed=0)
    assert torch.equal(logits(model, *sample), before)
    assert not list(model.language_model.get_output_embeddings().children())
    assert count == sum(p.numel() for p in model.language_model.parameters() if p.requires_grad) > 0


def test_the_seed_decides_the_adapters_and_nothing_else_is_drawn():
    def fresh(seed):
        torch.manual_seed(9)
        llm = tiny_llm(50)
        after = torch.get_rng_state()
        add_adapters(llm, LORA, seed=seed)
        assert torch.equal(torch.get_rng_state(), after)
        return adapter_state(llm)

    one, same, other = fresh(0), fresh(0), fresh(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_merged_state_has_the_names_it_had_without_adapters(adapted):
    plain = tiny_checkpoint(adapted.tokenizer).model.language_model
    merged = dict(merged_state(adapted.model.language_model))
    assert merged.keys() == plain.state_dict().keys()
    assert dict(merged_state(plain)).keys() == plain.state_dict().keys()


def test_adapters_with_biases_below_them_merge_too():
    llm = tiny_llm(50, "qwen2")
    biases = {name: x.clone() for name, x in llm.state_dict().items() if name.endswith("bias")}
    add_adapters(llm, LORA, seed=0)
    merged = dict(merged_state(llm))
    assert biases
    assert all(torch.equal(merged[name], bias) for name, bias in biases.items())


def test_a_second_set_of_adapters_is_refused(adapted):
    with pytest.raises(VistuneError, match="adapters already"):
        add_adapters(adapted.model.language_model, LORA, seed=0)


@pytest.mark.parametrize("package, extra", [("peft", "lora"), ("bitsandbytes", "qlora")])
def test_a_missing_package_is_named_with_its_remedy(package, extra, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(VistuneError, match=rf"needs {package}.*vistune\[{extra}\]"):
        add_adapters(tiny_llm(50), LORA, 0) if extra == "lora" else quantisation(())


def test_4_bits_without_a_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(VistuneError, match="nf4 needs a CUDA GPU"):
        quantisation(())


def test_4_bit_weights_are_merged_whole(tokenizer, sample, tmp_path):
    """bitsandbytes computes 4 bits on the CPU too, slowly: enough to see that what is saved is what ran."""
    pytest.importorskip("bitsandbytes")
    plain = tiny_llm(len(tokenizer))
    plain.save_pretrained(tmp_path / "llm")
    llm = AutoModelForCausalLM.from_pretrained(
        tmp_path / "llm", quantization_config=nf4(("lm_head",)), dtype=torch.float32
    )
    checkpoint = tiny_checkpoint(tokenizer)
    checkpoint.model.language_model = llm
    add_adapters(llm, LORA, seed=0)
    disturb(llm)
    save_checkpoint(checkpoint, tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    name = "model.layers.0.mlp.up_proj.weight"
    rounded = loaded.model.language_model.state_dict()[name] - plain.state_dict()[name]
    assert 0 < rounded.std() < 0.3 * plain.state_dict()[name].std()
    ours = logits(checkpoint.model.train(), *sample)  # in evaluation it would repack its weights for the CPU
    theirs = logits(loaded.model, *sample)
    assert (ours - theirs).abs().max() < 0.05 * ours.abs().max()  # it computes in bfloat16


@torch.no_grad()
@pytest.mark.parametrize("dora", [False, True])
def test_merging_is_that_of_peft_bit_for_bit(dora):
    torch.manual_seed(0)
    llm = tiny_llm(50, "qwen2")
    ids = torch.arange(10)[None]
    before = llm(ids).logits
    add_adapters(llm, LoraRecipe(rank=4, alpha=8, dropout=0.0, dora=dora), seed=0)
    torch.testing.assert_close(llm(ids).logits, before, atol=1e-6, rtol=1e-5)
    disturb(llm)
    expected = llm(ids).logits
    assert (expected - before).abs().max() > 0.02
    ours = {name: x.detach().clone() for name, x in merged_state(llm)}
    for module in list(llm.modules()):
        if hasattr(module, "lora_A"):
            module.merge(safe_merge=True)
    theirs = {n.replace(".base_layer", ""): x for n, x in llm.state_dict().items() if ".lora_" not in n}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_experts_get_adapters_or_it_is_told(kind):
    extra = {"num_local_experts": 4} if kind == "Mixtral" else {"num_experts": 4, "moe_intermediate_size": 24}
    llm = tiny_moe(50, kind, **extra)
    ids = torch.arange(10)[None]
    before, names = llm(ids).logits, llm.state_dict().keys()
    told = experts_note(llm, LoraRecipe(rank=2))
    assert re.fullmatch(r"experts \([\d,]+ parameters\) get no adapters: .* `lora.dropout` above 0", told)
    assert "`lora.dora`" in experts_note(llm, LoraRecipe(rank=2, dropout=0.0, dora=True))
    plain, exact = LoraRecipe(rank=2, dropout=0.1), LoraRecipe(rank=2, dropout=0.0)
    assert add_adapters(copy.deepcopy(llm), plain, 0) < add_adapters(llm, exact, 0)
    assert experts_note(llm, exact) is None and experts_note(tiny_llm(50), plain) is None
    disturb(llm)
    llm(ids).logits.square().mean().backward()
    adapters = {n: p.grad for n, p in llm.named_parameters() if ".lora_" in n and ".experts." in n}
    assert len(adapters) == 2 * 2 * 2 and all(grad.abs().max() > 0 for grad in adapters.values())
    merged = {name: x.detach() for name, x in merged_state(llm)}
    assert merged.keys() == names
    other = type(llm)(llm.config).eval()
    other.load_state_dict(merged)
    torch.testing.assert_close(other(ids).logits, llm(ids).logits, atol=1e-5, rtol=1e-5)
    assert (other(ids).logits - before).abs().max() > 0.02


def tiny_moe(vocabulary, kind, **extra):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")
    shape |= {"num_key_value_heads": 2, "num_experts_per_tok": 2, "max_position_embeddings": 512, **extra}
    return getattr(transformers, f"{kind}ForCausalLM")(config(vocab_size=vocabulary, **shape)).eval()


def test_an_llm_without_linear_layers_is_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(VistuneError, match="A gpt2 has no linear layers"):
        add_adapters(gpt2, LORA, seed=0)
