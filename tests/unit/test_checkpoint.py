"""Checkpoints: whole or not at all, strict, and continued only as what they are."""

import errno
import json
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.tiny import forget_image_token, save_tiny_parts, tiny_checkpoint, tiny_llm
from vistune import folders
from vistune.errors import VistuneError
from vistune.model.checkpoint import join_parts, load_checkpoint, save_checkpoint
from vistune.model.swap import swap
from vistune.recipe import ModelRecipe

pytestmark = pytest.mark.filterwarnings("ignore")
FILES = {
    "config.json",
    "model.safetensors",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vistune.json",
}


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    save_checkpoint(tiny_checkpoint(tokenizer, connector="mlp2x_gelu"), folder, {"stage": "align"})
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copied")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_checkpoint_is_complete(saved):
    assert {path.name for path in saved.iterdir()} == FILES
    stored = json.loads((saved / "vistune.json").read_text())
    assert stored["run"] == {"stage": "align"}
    assert ModelRecipe.model_validate(stored["model"]).connector == "mlp2x_gelu"


def test_precision_of_the_stored_weights(tokenizer, tmp_path):
    checkpoint = tiny_checkpoint(tokenizer)
    save_checkpoint(checkpoint, tmp_path / "half", dtype=torch.bfloat16)
    assert {x.dtype for x in weights(tmp_path / "half").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert next(checkpoint.model.connector.parameters()).dtype == torch.float32


def test_a_save_leaves_the_model_as_it_was(tokenizer, tmp_path):
    checkpoint = tiny_checkpoint(tokenizer)
    before = {name: x.clone() for name, x in checkpoint.model.state_dict().items()}
    config = checkpoint.model.language_model.config.to_json_string()
    save_checkpoint(checkpoint, tmp_path / "saved", dtype=torch.float16)
    after = checkpoint.model.state_dict()
    assert all(torch.equal(after[name], x) for name, x in before.items())
    assert checkpoint.model.language_model.config.to_json_string() == config


# --- whole or not at all


@pytest.mark.parametrize("where", ["weights", "tokenizer"])
def test_a_full_disk_leaves_the_last_good_checkpoint(where, tokenizer, tmp_path, monkeypatch):
    checkpoint = tiny_checkpoint(tokenizer)
    folder = tmp_path / "checkpoint"
    save_checkpoint(checkpoint, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "weights":
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    else:
        monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(VistuneError, match=r"No space left.*Free 0\.0 GB.*earlier checkpoints are untouched"):
        save_checkpoint(tiny_checkpoint(tokenizer, seed=1), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_real_limit_on_the_size_of_files_is_told_likewise(saved, tmp_path):
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from vistune.errors import VistuneError\n"
        "from vistune.model.checkpoint import load_checkpoint, save_checkpoint\n"
        "checkpoint = load_checkpoint(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try:\n"
        "    save_checkpoint(checkpoint, Path(sys.argv[2]))\n"
        "except VistuneError as error:\n"
        "    print(error)\n"
    )
    assert (saved / "model.safetensors").stat().st_size > 60_000
    target = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", code, str(saved), str(target)], capture_output=True, text=True, check=False
    )
    assert "could not be written" in run.stdout, run.stderr
    assert not list(tmp_path.iterdir())


def test_a_process_killed_between_the_two_renames_loses_nothing(tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    save_checkpoint(tiny_checkpoint(tokenizer), folder)
    before = weights(folder)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from vistune.model import checkpoint as module\n"
        "loaded = module.load_checkpoint(sys.argv[1])\n"
        "replace, calls = os.replace, []\n"
        "def dying(a, b):\n"
        "    calls.append(b)\n"
        "    if str(b) == sys.argv[1]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(a, b)\n"
        "os.replace = dying\n"
        "module.save_checkpoint(loaded, Path(sys.argv[1]))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL
    assert not folder.exists()
    load_checkpoint(folder)
    assert all(torch.equal(weights(folder)[name], x) for name, x in before.items())


def test_a_checkpoint_is_replaced_by_the_next(tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    for seed in (0, 1):
        save_checkpoint(tiny_checkpoint(tokenizer, seed=seed), folder)
    expected = tiny_checkpoint(tokenizer, seed=1).model.connector.layers[0].weight
    assert torch.equal(load_checkpoint(folder).model.connector.layers[0].weight, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


# --- strict loading


def drop_a_weight(folder):
    kept = weights(folder)
    kept.pop(min(kept))
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def add_a_weight(folder):
    save_file(
        {**weights(folder), "model.extra.weight": torch.zeros(2)},
        folder / "model.safetensors",
        {"format": "pt"},
    )


def cut_the_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def widen(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 48
    edit(folder / "config.json", **config)


def shrink_the_vocabulary(folder):
    config = json.loads((folder / "config.json").read_text())
    rows = config["text_config"]["vocab_size"] = config["text_config"]["vocab_size"] - 8
    edit(folder / "config.json", **config)
    state = weights(folder)
    for name, x in state.items():
        if "embed_tokens" in name or "lm_head" in name:
            state[name] = x[:rows].clone()
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def another_stored_setting(name, value):
    def change(folder):
        stored = json.loads((folder / "vistune.json").read_text())
        edit(folder / "vistune.json", model={**stored["model"], name: value})

    return change


@pytest.mark.parametrize(
    "damage, message",
    [
        (drop_a_weight, "1 weights are missing"),
        (add_a_weight, "1 weights are not part of the model, such as model.extra.weight"),
        (cut_the_weights, "model.safetensors: truncated"),
        (widen, "cannot be loaded"),
        (shrink_the_vocabulary, "tokenizer.json: ids up to .* vocab_size in config.json"),
        (forget_image_token, "tokenizer.json: <image> has the id None, but image_token_index"),
        (lambda f: edit(f / "config.json", image_token_index=7), "image_token_index in config.json is 7"),
        (another_stored_setting("connector", "linear"), "projector_hidden_act is 'gelu'.* makes it 'linear'"),
        (another_stored_setting("vision_layer", -1), "vision_feature_layer is -2.*makes it -1"),
        (another_stored_setting("vision_select", "cls_patch"), "select_strategy is 'default'.*'full'"),
        (another_stored_setting("preprocessing", "pad"), "preprocessor_config.json: .*'square'.*'pad'"),
        (another_stored_setting("colour", "red"), "vistune.json: `model` is not understood"),
        (lambda f: (f / "vistune.json").write_text("{"), "vistune.json: not valid JSON"),
        (lambda f: (f / "config.json").unlink(), "cannot be loaded"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "preprocessor_config.json: missing"),
        (lambda f: (f / "vistune.json").unlink(), "not a vistune checkpoint.*vistune import"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(damage, message, copied):
    damage(copied)
    with pytest.raises(VistuneError, match=message) as caught:
        load_checkpoint(copied)
    assert str(copied) in str(caught.value)


# --- parts and vocabulary


@pytest.fixture
def parts(tokenizer, tmp_path):
    return save_tiny_parts(tmp_path, tokenizer)


def join(parts, **settings):
    return join_parts(ModelRecipe(**parts, template="short", **{"max_length": 512, **settings}), 0)


def test_the_seed_decides_the_connector(parts):
    recipe = ModelRecipe(**parts, template="short", max_length=512)
    one, same, other = (join_parts(recipe, seed).model.connector.layers[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_image_token_is_added_within_reach(tokenizer, parts, tmp_path):
    """The tokenizer lacks it and the embeddings are full: the vocabulary grows, padded to 64."""
    forget_image_token(tmp_path / "llm")
    checkpoint = join(parts)
    llm, new = checkpoint.model.language_model, len(tokenizer)
    assert checkpoint.model.image_token == new
    assert llm.config.vocab_size == llm.get_output_embeddings().weight.shape[0] == -(-(new + 1) // 64) * 64
    rows = llm.get_output_embeddings().weight
    torch.testing.assert_close(rows[new], rows[:new].mean(0))
    save_checkpoint(checkpoint, tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").model.image_token == new


def test_an_image_token_that_fits_in_a_padded_vocabulary_grows_nothing(parts, tmp_path, tokenizer):
    tiny_llm(len(tokenizer) + 20).save_pretrained(tmp_path / "llm")
    forget_image_token(tmp_path / "llm")
    checkpoint = join(parts)
    assert checkpoint.model.language_model.config.vocab_size == len(tokenizer) + 20
    assert checkpoint.model.image_token == len(tokenizer)


def test_an_image_token_that_was_an_ordinary_word_becomes_special(parts, tmp_path):
    path = tmp_path / "llm" / "tokenizer.json"
    content = json.loads(path.read_text())
    for token in content["added_tokens"]:
        token["special"] = token["special"] and token["content"] != "<image>"
    path.write_text(json.dumps(content))
    config = json.loads((tmp_path / "llm" / "tokenizer_config.json").read_text())
    for key in ("image_token", "model_specific_special_tokens", "added_tokens_decoder"):
        config.pop(key, None)
    (tmp_path / "llm" / "tokenizer_config.json").write_text(json.dumps(config))
    checkpoint = join(parts)
    assert checkpoint.model.image_token == 2
    assert 2 in checkpoint.tokenizer.all_special_ids


def test_a_part_with_a_weight_missing_is_refused(parts, tmp_path):
    drop_a_weight(tmp_path / "llm")
    with pytest.raises(VistuneError, match=r"The LLM '.*llm' cannot be loaded.*1 weights are missing"):
        join(parts)


def test_samples_longer_than_the_llm_takes_are_refused(parts):
    with pytest.raises(VistuneError, match=r"max_length: 2048 tokens, but the LLM takes 512"):
        join(parts, max_length=2048)


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("T5", {}, "encoder-decoder model"),
        ("Bart", {}, "encoder-decoder model"),
        ("Qwen2VL", {}, "a multimodal model .qwen2_vl.*text-only"),
        ("Gemma3", {}, "a multimodal model .gemma3"),
        ("Phi", {"num_hidden_layers": 1}, "LM head without bias"),
        ("Llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised already"),
        ("CLIPVision", {}, "builds no LLM of a clip_vision_model"),
    ],
)
def test_llms_that_the_format_cannot_hold(kind, settings, message, parts, tmp_path):
    shutil.rmtree(tmp_path / "llm")
    getattr(transformers, f"{kind}Config")(**settings).save_pretrained(tmp_path / "llm")
    with pytest.raises(VistuneError, match=message):
        join(parts)


def test_an_llm_that_scales_its_logits_is_refused(parts, tmp_path, tokenizer):
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.GraniteConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, logits_scaling=8.0, **size
    )
    transformers.GraniteForCausalLM(config).save_pretrained(tmp_path / "llm")
    with pytest.raises(VistuneError, match=r"granite.*more than embeddings, decoder and LM head"):
        join(parts)


def test_an_encoder_that_is_not_there_is_named(parts):
    with pytest.raises(VistuneError, match="nowhere"):
        join({**parts, "vision": "./nowhere"})


# --- continuing


def test_a_run_continues_from_a_checkpoint(saved):
    continued = join_parts(ModelRecipe(start_from=str(saved), max_length=256, picture="first"), 0)
    assert continued.recipe.connector == "mlp2x_gelu"
    assert continued.recipe.vision == "tiny"
    assert (continued.recipe.max_length, continued.recipe.picture) == (256, "first")
    expected = weights(saved)["multi_modal_projector.linear_1.weight"]
    assert torch.equal(continued.model.connector.layers[0].weight, expected)


@pytest.mark.parametrize(
    "setting, value, stored",
    [
        ("template", "v0", "short"),
        ("connector", "linear", "mlp2x_gelu"),
        ("vision_layer", -1, -2),
        ("vision_select", "cls_patch", "patch"),
        ("preprocessing", "pad", "square"),
    ],
)
def test_another_setting_than_the_stored_one_is_refused(setting, value, stored, saved):
    recipe = ModelRecipe(start_from=str(saved), max_length=512, **{setting: value})
    said = rf"model\.{setting}: the recipe says {re.escape(repr(value))}.*{re.escape(repr(stored))}"
    with pytest.raises(VistuneError, match=said):
        join_parts(recipe, 0)


def test_a_stage_may_name_another_template(saved):
    recipe = ModelRecipe(start_from=str(saved), template="v0", max_length=512)
    assert join_parts(recipe, 0, template="plain").recipe.template == "plain"


def test_the_llms_own_chat_template_outlives_a_stage_with_another(tokenizer, tmp_path, parts):
    own = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    (tmp_path / "llm" / "chat_template.jinja").write_text(own)
    checkpoint = join(parts)
    assert checkpoint.tokenizer.chat_template == own
    save_checkpoint(checkpoint, tmp_path / "saved")
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() != own
    assert load_checkpoint(tmp_path / "saved").tokenizer.chat_template == own


def test_the_swap_is_what_the_docstring_says(tmp_path):
    (tmp_path / "a.part").mkdir()
    (tmp_path / "a.part" / "new").touch()
    swap(tmp_path / "a.part", tmp_path / "a")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_room_is_checked_before_anything_is_written(tokenizer, tmp_path, monkeypatch):
    checkpoint = tiny_checkpoint(tokenizer)
    save_checkpoint(checkpoint, tmp_path / "saved")
    written = (tmp_path / "saved" / "model.safetensors").stat()
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=written.st_size // 2))
    with pytest.raises(VistuneError, match=r"could not be written .* bytes are needed, .* bytes are free"):
        save_checkpoint(checkpoint, tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert (tmp_path / "saved" / "model.safetensors").stat() == written
