"""Import and export: the same logits on both sides, and what cannot be represented named."""

import json
import shutil

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from tests.small_tokenizers import CHAT_TEMPLATES, TOKENIZERS, speaking, with_chat_template
from tests.tiny import IMAGE_SIZE, tiny_checkpoint, tiny_llm, tiny_vision
from vistune.conversation import Conversation, ask, gpt, human
from vistune.data.images import Preprocessor
from vistune.errors import VistuneError
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.model.transfer import export_checkpoint, import_checkpoint
from vistune.template import TEMPLATES

pytestmark = pytest.mark.filterwarnings("ignore")
TALK = Conversation("talk", (human(*ask("What is in the picture?", "a.jpg")), gpt("A dog and two cats.")))
HALF = Preprocessor(IMAGE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def pixels():
    return torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def write_plain(folder, tokenizer, kind="clip", preprocess=HALF, **settings):
    """A ``llava`` folder as others write it: by transformers alone, from transformers' own initialisation."""
    torch.manual_seed(4)
    config = LlavaConfig(
        vision_config=tiny_vision(kind).config,
        text_config=tiny_llm(len(tokenizer)).config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **settings,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # biases too
    if config.projector_hidden_act == "linear":
        layer = model.model.multi_modal_projector.linear_2
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preprocess.save(folder)
    return str(folder)


def logits_of_ours(checkpoint, pixels):
    ids = checkpoint.renderer.encode(TALK).ids
    embeddings = checkpoint.model.embed(torch.tensor([ids]), pixels)
    return ids, checkpoint.model.language_model(inputs_embeds=embeddings).logits


def logits_of_theirs(folder, ids, pixels, **settings):
    model = LlavaForConditionalGeneration.from_pretrained(folder, **settings).eval()
    return model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, settings, expected",
    [
        ("clip", {}, ("mlp2x_gelu", -2, "patch")),
        ("clip", {"vision_feature_select_strategy": "full"}, ("mlp2x_gelu", -2, "cls_patch")),
        ("clip", {"projector_hidden_act": "linear", "vision_feature_layer": -1}, ("linear", -1, "patch")),
        ("siglip", {"vision_feature_select_strategy": "full"}, ("mlp2x_gelu", -2, "patch")),
        ("dinov2", {"vision_feature_layer": 1}, ("mlp2x_gelu", 1, "patch")),
    ],
)
def test_an_imported_model_computes_what_it_computed(kind, settings, expected, tokenizer, pixels, tmp_path):
    plain = write_plain(tmp_path / "plain", tokenizer, kind, **settings)
    out = import_checkpoint(plain, tmp_path / "ours", "short")
    ours = load_checkpoint(out)
    recipe = ours.recipe
    assert (recipe.connector, recipe.vision_layer, recipe.vision_select) == expected
    assert (recipe.template, recipe.max_length) == ("short", 512)
    ids, logits = logits_of_ours(ours, pixels)
    torch.testing.assert_close(logits, logits_of_theirs(plain, ids, pixels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits_of_theirs(out, ids, pixels), logits, atol=1e-5, rtol=1e-5)
    assert str(tmp_path) not in (out / "vistune.json").read_text()


@torch.no_grad()
@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu"])
def test_an_exported_model_computes_what_ours_computes(connector, tokenizer, pixels, tmp_path):
    checkpoint = tiny_checkpoint(tokenizer, connector=connector)
    save_checkpoint(checkpoint, tmp_path / "ours", {"data": str(tmp_path / "secret")})
    out = export_checkpoint(str(tmp_path / "ours"), tmp_path / "plain", "float32")
    ids, logits = logits_of_ours(checkpoint, pixels)
    torch.testing.assert_close(logits_of_theirs(out, ids, pixels), logits, atol=1e-5, rtol=1e-5)
    again = import_checkpoint(str(out), tmp_path / "again", "short")
    torch.testing.assert_close(logits_of_ours(load_checkpoint(again), pixels)[1], logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_precision_of_an_export(dtype, tokenizer, tmp_path):
    save_checkpoint(tiny_checkpoint(tokenizer), tmp_path / "ours")
    out = export_checkpoint(str(tmp_path / "ours"), tmp_path / "plain", dtype)
    model = LlavaForConditionalGeneration.from_pretrained(out, dtype="auto")
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    kept = import_checkpoint(str(out), tmp_path / "again", "short")
    assert json.loads((kept / "config.json").read_text())["dtype"] == dtype


def test_an_export_does_not_tell_where_it_was_made(tokenizer, tmp_path):
    parts = {"vision": str(tmp_path / "secret" / "clip"), "llm": "lmsys/vicuna-7b-v1.5"}
    save_checkpoint(tiny_checkpoint(tokenizer, **parts), tmp_path / "ours", {"images": str(tmp_path)})
    out = export_checkpoint(str(tmp_path / "ours"), tmp_path / "plain")
    text = "".join(path.read_text(errors="ignore") for path in out.iterdir() if path.suffix == ".json")
    assert str(tmp_path) not in text
    stored = json.loads((out / "vistune.json").read_text())
    assert stored["run"] == {}
    assert (stored["model"]["vision"], stored["model"]["llm"]) == ("clip", "lmsys/vicuna-7b-v1.5")
    load_checkpoint(out)


@pytest.mark.parametrize("which", TOKENIZERS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_are_the_same_after_an_export_and_an_import(template, which, tmp_path):
    tokenizer = speaking(which, None)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    checkpoint = tiny_checkpoint(tokenizer, template=template)
    save_checkpoint(checkpoint, tmp_path / "ours")
    export_checkpoint(str(tmp_path / "ours"), tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "bare")
    (tmp_path / "bare" / "vistune.json").unlink()
    import_checkpoint(str(tmp_path / "bare"), tmp_path / "again", template)
    export_checkpoint(str(tmp_path / "again"), tmp_path / "plain again")
    for folder in ("plain", "again", "plain again"):
        loaded = load_checkpoint(tmp_path / folder)
        assert loaded.renderer.encode(TALK) == checkpoint.renderer.encode(TALK)
        assert loaded.renderer.chat_template == checkpoint.renderer.chat_template
        assert (tmp_path / folder / "chat_template.jinja").read_text() == checkpoint.renderer.chat_template


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_an_llms_own_template_is_the_same_after_an_export_and_an_import(name, tmp_path):
    tokenizer = with_chat_template(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    checkpoint = tiny_checkpoint(tokenizer, template="tokenizer")
    save_checkpoint(checkpoint, tmp_path / "ours")
    export_checkpoint(str(tmp_path / "ours"), tmp_path / "plain")
    import_checkpoint(str(tmp_path / "plain"), tmp_path / "again", "tokenizer")
    for folder in ("plain", "again"):
        assert load_checkpoint(tmp_path / folder).renderer.encode(TALK) == checkpoint.renderer.encode(TALK)


def test_an_export_adds_no_bos_and_says_what_it_needs(tmp_path, capsys):
    save_checkpoint(tiny_checkpoint(speaking("llama-legacy", None)), tmp_path / "ours")
    before = (tmp_path / "ours" / "tokenizer.json").read_text()
    out = export_checkpoint(str(tmp_path / "ours"), tmp_path / "plain")
    told = capsys.readouterr().err
    assert "transformers 5 or newer" in told
    assert "The chat template writes <s>, the tokenizer does not" in told.replace("\n", " ")
    assert json.loads((out / "tokenizer_config.json").read_text())["add_bos_token"] is False
    ours, plain = (json.loads((tmp_path / n / "tokenizer.json").read_text()) for n in ("ours", "plain"))
    assert '"<s>"' in json.dumps(ours.pop("post_processor"))
    assert "<s>" not in json.dumps(plain.pop("post_processor"))
    assert plain == ours
    assert (tmp_path / "ours" / "tokenizer.json").read_text() == before
    assert not list(tmp_path.rglob("*.part"))


def test_padding_is_recognised(tokenizer, tmp_path):
    plain = write_plain(tmp_path / "plain", tokenizer, preprocess=HALF.padded())
    out = import_checkpoint(plain, tmp_path / "ours", "short")
    loaded = load_checkpoint(out)
    assert loaded.recipe.preprocessing == "pad"
    assert loaded.preprocess == HALF.padded()


def test_preprocessing_within_the_processors_file_is_found(tokenizer, tmp_path):
    plain = write_plain(tmp_path / "plain", tokenizer)
    inner = json.loads((tmp_path / "plain" / "preprocessor_config.json").read_text())
    (tmp_path / "plain" / "preprocessor_config.json").unlink()
    (tmp_path / "plain" / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    assert load_checkpoint(import_checkpoint(plain, tmp_path / "ours", "short")).preprocess == HALF


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("clip", {"projector_hidden_act": "silu"}, "projector_hidden_act 'silu'"),
        ("clip", {"multimodal_projector_bias": False}, "projector without bias"),
        ("clip", {"vision_feature_layer": [-2, -1]}, r"vision_feature_layer \[-2, -1\] reads several"),
        ("siglip", {}, "'default' drops one token of a siglip_vision_model, which has 0"),
        ("dinov2_with_registers", {}, "'default' drops one token of a dinov2_with_registers, which has 4"),
    ],
)
def test_what_cannot_be_represented_is_named(kind, settings, message, tokenizer, tmp_path):
    plain = write_plain(tmp_path / "plain", tokenizer, kind, **settings)
    with pytest.raises(VistuneError, match=message):
        import_checkpoint(plain, tmp_path / "ours", "short")
    assert not (tmp_path / "ours").exists()


def test_two_linear_layers_without_activation_are_refused(tokenizer, tmp_path):
    plain = write_plain(tmp_path / "plain", tokenizer)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "plain" / "config.json").write_text(json.dumps({**config, "projector_hidden_act": "linear"}))
    with pytest.raises(VistuneError, match="linear_2 is not the identity"):
        import_checkpoint(plain, tmp_path / "ours", "short")


def test_other_model_types_and_settings_are_refused(tokenizer, tmp_path):
    plain = write_plain(tmp_path / "plain", tokenizer)
    with pytest.raises(VistuneError, match=r"template 'vicuna': choose one of: .*vicuna_v1"):
        import_checkpoint(plain, tmp_path / "ours", "vicuna")
    with pytest.raises(VistuneError, match="is there already"):
        import_checkpoint(plain, tmp_path / "plain", "short")
    with pytest.raises(VistuneError, match="max_length: 4096 tokens, but the LLM takes 512"):
        import_checkpoint(plain, tmp_path / "ours", "short", max_length=4096)
    shutil.copytree(tmp_path / "plain", tmp_path / "llm")
    tiny_llm(len(tokenizer)).save_pretrained(tmp_path / "llm")
    with pytest.raises(VistuneError, match="model_type is 'llama'; only 'llava'"):
        import_checkpoint(str(tmp_path / "llm"), tmp_path / "ours", "short")
    with pytest.raises(VistuneError, match="dtype 'int8': choose one of: float16"):
        export_checkpoint(plain, tmp_path / "ours", "int8")
    with pytest.raises(VistuneError, match="not a vistune checkpoint"):
        export_checkpoint(plain, tmp_path / "ours")
