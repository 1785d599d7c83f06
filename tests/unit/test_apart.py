"""Adapters kept apart: the same model as merged ones, for us, for peft, and for the next stage."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from tests.tiny import save_tiny_parts, tiny_checkpoint
from tests.unit.test_adapters import tiny_moe
from vistune.errors import VistuneError
from vistune.model.adapters import add_adapters
from vistune.model.apart import take_apart
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.model.fingerprint import fingerprint
from vistune.model.hf import llava_state
from vistune.model.transfer import export_checkpoint
from vistune.recipe import LoraRecipe, parse_recipe
from vistune.serve.engine.launch import read_exported
from vistune.train.loop import train

peft = pytest.importorskip("peft", reason="needs peft: pip install 'vistune[lora]'")
pytestmark = pytest.mark.filterwarnings("ignore")
STAGE = {
    "trains": ["connector", "llm"],
    "data": {"conversation.json": 1},
    "learning_rate": 1e-2,
    "batch_size": 4,
    "max_steps": 3,
    "epochs": 10,
}
LORA = {"rank": 2, "alpha": 4}


@pytest.fixture(scope="module")
def parts(tmp_path_factory, tokenizer):
    return save_tiny_parts(tmp_path_factory.mktemp("parts"), tokenizer, family="qwen2")


def make_recipe(parts, lora, **settings):
    model = {**parts, "template": "short", "max_length": 512}
    align = {**STAGE, "trains": ["connector"], "max_steps": 1}
    stages = {"align": align, "instruct": {**STAGE, "lora": lora}}
    return parse_recipe({"model": model, "stages": stages, **settings}, "test")


def state(folder):
    return llava_state(load_checkpoint(folder).model)


def equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("lora, precision", [(LORA, "bfloat16"), ({**LORA, "dora": True}, "float32")])
def test_apart_is_what_merged_is(parts, data, images, tmp_path, lora, precision):
    merged = train(make_recipe(parts, lora, precision=precision), data, images, tmp_path / "merged")
    apart = train(
        make_recipe(parts, {**lora, "merge": False}, precision=precision), data, images, tmp_path / "apart"
    )
    assert not (apart / "model.safetensors").exists()
    expected = state(merged)
    assert equal(state(apart), expected)
    # peft reads them, on transformers' own model of the base.
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "apart" / "align" / "checkpoint").eval()
    ids = torch.tensor([[base.config.image_token_index] * 4 + list(range(5, 15))])
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = base(input_ids=ids, pixel_values=pixels).logits
    wrapped = peft.PeftModel.from_pretrained(base, apart).eval()
    whole = LlavaForConditionalGeneration.from_pretrained(merged).eval()
    with torch.no_grad():
        theirs, ours = (m(input_ids=ids, pixel_values=pixels).logits for m in (wrapped, whole))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-2
    # Another stage starts from it, and an export is complete.
    export_checkpoint(str(apart), tmp_path / "exported", "float32")
    assert equal(state(tmp_path / "exported"), expected)
    more = {"stages": {"more": {**STAGE, "lora": lora}}}
    after = [
        train(
            parse_recipe({**more, "model": {"start_from": str(start)}}, "test"), data, images, tmp_path / name
        )
        for start, name in ((apart, "after-apart"), (merged, "after-merged"))
    ]
    assert equal(state(after[0]), state(after[1]))
    # Moved as a whole it is the same; without its base it is not there.
    before = fingerprint(apart)
    (tmp_path / "apart").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "instruct" / "checkpoint"
    assert fingerprint(moved) == before and equal(state(moved), expected)
    with pytest.raises(VistuneError, match=r"vistune export .* --out OUT"):
        read_exported(moved)
    shutil.rmtree(tmp_path / "moved" / "align")
    with pytest.raises(VistuneError, match=r"holds adapters for .*align/checkpoint, which is not there"):
        load_checkpoint(moved)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
def test_adapters_of_experts_apart(tokenizer, tmp_path, kind):
    extra = {"num_local_experts": 4} if kind == "Mixtral" else {"num_experts": 4, "moe_intermediate_size": 24}
    checkpoint = tiny_checkpoint(tokenizer)
    checkpoint.model.language_model = tiny_moe(len(tokenizer), kind, **extra)
    save_checkpoint(checkpoint, tmp_path / "base")
    add_adapters(checkpoint.model.language_model, LoraRecipe(rank=2, alpha=4, dropout=0.0), seed=0)
    for name, parameter in checkpoint.model.language_model.named_parameters():
        if ".lora_" in name:
            parameter += 0.05 * torch.randn_like(parameter)
    apart = take_apart(checkpoint.model, str(tmp_path / "base"))
    save_checkpoint(checkpoint, tmp_path / "apart", apart=apart)
    assert equal(state(tmp_path / "apart"), llava_state(checkpoint.model))
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
    before = {name: x.clone() for name, x in base.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "apart").merge_and_unload().state_dict()
    ours = load_checkpoint(tmp_path / "apart").model.language_model.state_dict()
    experts = [name for name in ours if ".experts." in name]
    assert len(experts) == 4
    for name in ours:
        theirs = name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)
        torch.testing.assert_close(ours[name], merged[theirs], atol=1e-6, rtol=1e-5)
    assert not torch.equal(ours[experts[0]], before[experts[0].replace("model.", "model.language_model.", 1)])


def test_adapters_apart_need_a_checkpoint_below_them(parts):
    with pytest.raises(VistuneError, match=r"stages.instruct: `lora.merge: false` needs a checkpoint"):
        model = {**parts, "template": "short", "max_length": 512}
        stages = {"instruct": {**STAGE, "lora": {**LORA, "merge": False}}}
        parse_recipe({"model": model, "stages": stages}, "test")


def test_the_folder_is_small(parts, data, images, tmp_path):
    last = train(make_recipe(parts, {**LORA, "merge": False}), data, images, tmp_path / "run")
    stored = load_file(last / "adapter_model.safetensors")
    assert sum("lora_" in name for name in stored) == 2 * 2 * 7
    assert sum("multi_modal_projector" in name for name in stored) == len(stored) - 2 * 2 * 7 == 4
