"""What vLLM, SGLang and llama.cpp read of an export is in it.

Read in their sources: vLLM 0.33.0 (``models/llava.py``, ``models/transformers``), SGLang 0.5.23
(``srt/models/transformers.py``, ``multimodal/processors/transformers_auto.py``), llama.cpp 0c1e57098
(``conversion``, ``gguf-py/gguf/vocab.py``, ``tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py``).
docs/serving.md has the commands, and what does not load. The ids of their prompts are compared in
test_export_adapters.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from tests.small_tokenizers import speaking
from tests.tiny import LLM_FAMILIES, VISION_KINDS, save_tiny_parts
from vistune.errors import VistuneError
from vistune.model.checkpoint import join_parts, save_checkpoint
from vistune.model.transfer import export_checkpoint
from vistune.recipe import ModelRecipe
from vistune.serve.engine.launch import command_of, read_exported

pytestmark = pytest.mark.filterwarnings("ignore")
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"

FILES = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "processor_config.json",
    "preprocessor_config.json",
}
# read without a default, by one of them or the other
CONFIG = (
    "architectures",
    "dtype",
    "image_token_index",
    "model_type",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "text_config.architectures",
    "text_config.hidden_size",
    "text_config.max_position_embeddings",
    "text_config.model_type",
    "text_config.num_attention_heads",
    "text_config.num_hidden_layers",
    "text_config.num_key_value_heads",
    "text_config.vocab_size",
    "vision_config.hidden_size",
    "vision_config.image_size",
    "vision_config.model_type",
    "vision_config.num_hidden_layers",
    "vision_config.patch_size",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
# SGLang's names for its transformers implementation; the longest beginning that fits counts.
SGLANG = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "lm_head.": "lm_head.",
    "model.": "model.",
}
LLAMA_CPP = re.compile(  # a Llama's tensors for llama.cpp, `language_model.` left out
    r"(lm_head|model\.(embed_tokens|norm|layers\.\d+\."
    r"(input_layernorm|post_attention_layernorm|self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)))\.weight"
)


def export(folder, kind="clip", family="llama", which="llama-legacy", **settings):
    tokenizer = speaking(which, None)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    parts = save_tiny_parts(folder / "parts", tokenizer, kind=kind, family=family)
    recipe = ModelRecipe(**parts, **{"template": "vicuna_v1", "max_length": 512, **settings})
    save_checkpoint(join_parts(recipe, 0), folder / "run")
    return export_checkpoint(str(folder / "run"), folder / "export")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """LLaVA-1.5's parts: CLIP, an MLP, a Llama that begins with BOS."""
    return export(tmp_path_factory.mktemp("plain"), connector="mlp2x_gelu")


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    return export_checkpoint("starter", tmp_path_factory.mktemp("starter") / "export")


@pytest.fixture(params=["plain", "starter"])
def folder(request):
    return request.getfixturevalue(request.param)


def read(folder, file="config.json"):
    return json.loads((folder / file).read_text(encoding="utf-8"))


def names(folder):
    return {
        name
        for file in folder.glob("*.safetensors")
        for name in safe_open(file, "pt").keys()  # noqa: SIM118
    }


def test_the_files_are_there(folder):
    assert {file.name for file in folder.iterdir()} >= FILES
    index = folder / "model.safetensors.index.json"
    assert index.exists() or [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]


def test_an_index_names_every_weight(plain, tmp_path):
    """Large exports come in several files."""
    LlavaForConditionalGeneration.from_pretrained(plain).save_pretrained(tmp_path, max_shard_size="40KB")
    places = read(tmp_path, "model.safetensors.index.json")["weight_map"]
    assert places.keys() == names(tmp_path) == names(plain) and len(set(places.values())) > 1


@pytest.mark.parametrize("field", CONFIG)
def test_the_configuration_says(folder, field):
    found = read(folder)
    for key in field.split("."):
        found = found[key]
    assert found is not None


def test_they_find_the_model_by_its_configuration(folder):
    config = read(folder)
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and config["model_type"] == "llava"
    assert config["dtype"] == "float16"
    assert config["image_token_index"] < config["text_config"]["vocab_size"]  # vLLM masks it in its logits
    assert len(AutoTokenizer.from_pretrained(folder)) <= config["text_config"]["vocab_size"]


@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, "llama") for kind in VISION_KINDS), *(("clip", f) for f in LLM_FAMILIES)]
)
@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu"])
def test_transformers_implementation_finds_every_weight(kind, family, connector, tmp_path):
    """With it, vLLM loads every family of ours, either connector: it takes transformers' renaming along.

    SGLang renames beginnings alone; DINOv2's weights are stored under names that change inside.
    """
    select = "cls_patch" if kind == "dinov2_with_registers" else "patch"
    exported = export(tmp_path, kind, family, "starter", connector=connector, vision_select=select)
    model, info = LlavaForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
    assert not any(info.values())
    mapped = {to_sglang(name) for name in names(exported)}
    tied = {"lm_head.weight"} if read(exported)["tie_word_embeddings"] else set()
    assert (mapped - tied == model.state_dict().keys() - tied) is not kind.startswith("dinov2")
    try:
        command_of("sglang", read_exported(exported), "mine", 1)
        refused = False
    except VistuneError as error:
        refused = "DINOv2" in str(error)
    assert refused is kind.startswith("dinov2")


def to_sglang(name):
    begin = max((begin for begin in SGLANG if name.startswith(begin)), key=len)
    return SGLANG[begin] + name.removeprefix(begin)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_vllms_own_implementation_finds_every_weight(kind, tmp_path):
    """Its names are those of the hub's LLaVA-1.5."""
    for name in names(export(tmp_path, kind)):
        assert name.startswith(("language_model.", "vision_tower.vision_model.", "multi_modal_projector."))


def test_the_processor_is_whole_and_counts_as_the_model_does(folder):
    config, processor = read(folder), AutoProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "LlavaProcessor"
    assert processor.patch_size == config["vision_config"]["patch_size"]
    assert processor.vision_feature_select_strategy == config["vision_feature_select_strategy"]
    assert processor.image_token_id == config["image_token_index"]
    (count,) = processor._get_num_multimodal_tokens(image_sizes=[[30, 40]])["num_image_tokens"]
    ids = processor(images=Image.new("RGB", (40, 30)), text=processor.image_token)["input_ids"][0]
    assert (
        ids == [processor.image_token_id] * count == [processor.image_token_id] * config["image_seq_length"]
    )


def test_pictures_come_to_the_chat_template_as_parts(folder):
    """vLLM and SGLang look whether it loops over a message's content; or would paste text of their own."""
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    loops = [loop.iter for loop in jinja2.Environment().parse(source).find_all(jinja2.nodes.For)]
    assert any(isinstance(of, jinja2.nodes.Getitem) and of.arg.value == "content" for of in loops)
    content = [{"type": "text", "text": "What is it?"}, {"type": "image"}, {"type": "image"}]
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text.count("<image>") == 2


def test_an_answer_ends(folder):
    """All three stop at these ids; a STOP that is no token is asked for by the serving front."""
    eos = AutoTokenizer.from_pretrained(folder).eos_token_id
    assert read(folder, "generation_config.json")["eos_token_id"] == eos
    assert read_exported(folder).stop is None


def test_bos_is_written_by_the_template_alone(plain):
    tokenizer = AutoTokenizer.from_pretrained(plain)
    assert tokenizer.bos_token_id not in tokenizer("USER")["input_ids"]
    assert read(plain, "tokenizer_config.json")["add_bos_token"] is False  # llama.cpp
    assert tokenizer.bos_token in (plain / "chat_template.jinja").read_text(encoding="utf-8")


def test_llama_cpp_finds_the_llm(plain):
    """It goes by the LLM's own class, and leaves out what is named after vision or a projector."""
    assert read(plain)["text_config"]["architectures"] == ["LlamaForCausalLM"]
    llm = {name for name in names(plain) if "vision_" not in name and "projector." not in name}
    assert llm and all(LLAMA_CPP.fullmatch(name.replace("language_model.", "")) for name in llm)


def test_llama_cpp_finds_the_chat_template(folder):
    assert "chat_template" not in read(folder, "tokenizer_config.json")


@pytest.fixture
def split(tmp_path):
    """The script of docs/serving.md."""
    script = re.search(r"```python\n(import json.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "split.py").write_text(script[1], encoding="utf-8")

    def run(source):
        subprocess.run([sys.executable, tmp_path / "split.py", source, tmp_path / "out"], check=True)
        return tmp_path / "out"

    return run


def test_llama_cpp_reads_what_the_split_writes(plain, split):
    out, config = split(plain), read(plain)
    llm = read(out / "llm", "tokenizer_config.json")
    assert llm["tokenizer_class"] == "PreTrainedTokenizerFast" and "chat_template" not in llm
    assert names(out / "llm") == names(plain)
    vision = read(out / "vision")
    for key in (
        *("hidden_act", "hidden_size", "image_size", "intermediate_size", "layer_norm_eps"),
        *("num_attention_heads", "num_hidden_layers", "patch_size", "projection_dim"),
    ):
        assert vision[key] == config["vision_config"][key]
    assert vision["vision_feature_layer"] == config["vision_feature_layer"]
    assert vision["model_type"] == "clip_vision_model"  # what its `CLIPVisionModel.from_pretrained` loads


def test_the_split_loses_no_weight(plain, split):
    out, whole = split(plain), load_file(plain / "model.safetensors")
    encoder = load_file(out / "vision" / "model.safetensors")
    projector = torch.load(out / "llava.projector", weights_only=True)
    assert all(name.startswith("vision_model.") for name in encoder)
    assert projector.keys() == {
        f"multi_modal_projector.linear_{number}.{leaf}" for number in (1, 2) for leaf in ("weight", "bias")
    }
    parts = {
        "vision_tower." + name.removeprefix("vision_model."): x for name, x in encoder.items()
    } | projector
    mine = {name: x for name, x in whole.items() if not name.startswith("language_model.")}
    short = {name.replace("vision_tower.vision_model.", "vision_tower."): x for name, x in mine.items()}
    assert parts.keys() == short.keys()
    assert all(torch.equal(parts[name], short[name]) for name in parts)
