"""What people name instead of a model: said in one line, with what to take."""

import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from tests.tiny import save_tiny_parts, tiny_checkpoint
from vistune.errors import VistuneError
from vistune.model import hub, parts
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.model.mistakes import check_part
from vistune.model.outline import outline
from vistune.model.transfer import import_checkpoint
from vistune.recipe import ModelRecipe

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    return save_tiny_parts(tmp_path_factory.mktemp("parts"), tokenizer)


@pytest.fixture
def llm(whole, tmp_path):
    """A sound folder, to be damaged."""
    return shutil.copytree(whole["llm"], tmp_path / "vicuna")


def refusal(whole, llm):
    """What is said of ``llm``, in one line."""
    with pytest.raises(VistuneError) as caught:
        outline(ModelRecipe(vision=whole["vision"], llm=str(llm), template="short", max_length=512))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_sound_parts_are_let_through(whole):
    check_part(whole["vision"], "model.vision")
    check_part(whole["llm"], "model.llm")
    check_part("starter/llm", "model.llm")


def test_a_folder_that_is_not_there_is_said_so_with_the_nearest(whole, llm):
    said = refusal(whole, llm.with_name("vicuna-7b"))
    assert said == f"{llm}-7b: no such folder. Did you mean {llm}? Set model.llm=FOLDER."
    assert "no such folder" in refusal(whole, "../nowhere")
    assert "no such folder" in refusal(whole, "~/nowhere")


def test_a_name_under_a_folder_that_is_here_is_no_name_on_the_hub(whole, llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    said = refusal(whole, f"{tmp_path.name}/vicunna")
    assert said.startswith(f"{tmp_path.name}/vicunna: no such folder. Did you mean {tmp_path.name}/vicuna?")


@pytest.mark.parametrize("name", ["starter/vison", "starter/vision-large"])
def test_an_embedded_part_that_there_is_not(name):
    with pytest.raises(VistuneError, match=r"no embedded part .*Did you mean starter/vision\?"):
        check_part(name, "model.vision")


@pytest.mark.parametrize("base", ["lmsys/vicuna-7b-v1.5", None])
def test_a_lora_adapter(whole, llm, base):
    (llm / "config.json").unlink()
    (llm / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    said = refusal(whole, llm)
    assert f"{llm}: a LoRA adapter, not a whole model. Take its base" in said
    assert (f"({base})" in said) == bool(base)


def test_a_gguf_file_and_a_folder_of_them(whole, tmp_path):
    (tmp_path / "gguf").mkdir()
    file = tmp_path / "gguf" / "model-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    for name in (file, tmp_path / "gguf", "TheBloke/model.gguf"):
        assert "a GGUF file, made for llama.cpp" in refusal(whole, name)


@pytest.mark.parametrize("method", ["bitsandbytes", "awq", "gptq"])
def test_weights_that_are_quantised_already(whole, llm, method):
    configure(llm, quantization_config={"quant_method": method, "bits": 4})
    assert f"its weights are quantised already ({method})" in refusal(whole, llm)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer(whole, llm, file):
    (llm / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    said = refusal(whole, llm)
    assert said.startswith(f"{llm / file}: a git-lfs pointer") and "git lfs pull" in said


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("left", [0.9, 0.001])
def test_a_truncated_file_is_named(whole, llm, file, left):
    content = (llm / file).read_bytes()
    (llm / file).write_bytes(content[: int(left * len(content))])
    assert f"{llm / file}: truncated" in refusal(whole, llm)


def test_a_shard_that_is_missing_is_named(whole, llm):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (llm / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{llm / 'model-2.safetensors'}: missing" in refusal(whole, llm)


def test_a_folder_above_the_model_leads_to_it(whole, llm, tmp_path):
    assert (
        f"{tmp_path}: no config.json" in (said := refusal(whole, tmp_path)) and f"Did you mean {llm}?" in said
    )


@pytest.mark.parametrize(
    "changes", [{"architectures": ["LlavaLlamaForCausalLM"]}, {"mm_vision_tower": "openai/clip"}]
)
def test_the_layout_of_the_reference(whole, llm, tmp_path, changes):
    configure(llm, **changes)
    said = refusal(whole, llm)
    assert "layout of LLaVA's own repository" in said and "vistune import" in said
    with pytest.raises(VistuneError, match="layout of LLaVA's own repository"):
        import_checkpoint(str(llm), tmp_path / "out", "v0")


def test_one_layer_in_a_list_is_one_layer(tokenizer, tmp_path):
    save_checkpoint(tiny_checkpoint(tokenizer), tmp_path / "ours")
    configure(tmp_path / "ours", vision_feature_layer=[-2])
    assert load_checkpoint(tmp_path / "ours").model.vision.layer == -2
    imported = import_checkpoint(str(tmp_path / "ours"), tmp_path / "imported", "short", 512)
    assert json.loads((imported / "config.json").read_text())["vision_feature_layer"] == -2
    configure(tmp_path / "ours", vision_feature_layer=[-2, -1])
    with pytest.raises(VistuneError, match=r"vision_feature_layer is \[-2, -1\]"):
        load_checkpoint(tmp_path / "ours")


def test_a_truncated_checkpoint_is_named_when_it_is_loaded(tokenizer, tmp_path):
    save_checkpoint(tiny_checkpoint(tokenizer), tmp_path / "ours")
    weights = tmp_path / "ours" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(VistuneError, match=r"model\.safetensors: truncated: [\d,]+ bytes of [\d,]+\. Copy"):
        load_checkpoint(tmp_path / "ours")


# --- the hub


@pytest.fixture
def network(monkeypatch):
    """A hub at a free port of this machine; ``asked`` counts what the client looks for in it."""
    hub._answers.cache_clear()
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(hub, "getproxies", dict)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub, "host", lambda: f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server
    hub._answers.cache_clear()


def test_without_a_network_a_folder_is_asked_for_at_once(network, whole):
    start = time.monotonic()  # nothing listens at the port
    said = refusal(whole, "lmsys/vicuna-7b-v1.5")
    assert time.monotonic() - start < 5
    assert "cannot be reached" in said and "Set model.llm=FOLDER" in said
    with pytest.raises(VistuneError, match=r"the hub .* cannot be reached\. Name a FOLDER"):
        import_checkpoint("llava-hf/llava", Path("out"), "v0")


def test_a_name_that_takes_forever_to_be_looked_up_is_not_waited_for(monkeypatch):
    hub._answers.cache_clear()
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub, "_PATIENCE", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_: time.sleep(3))
    start = time.monotonic()
    assert not hub.reachable() and time.monotonic() - start < 2
    hub._answers.cache_clear()


def test_a_hub_that_answers_is_asked_and_a_wrong_name_is_said_so(network, monkeypatch):
    network.listen()
    assert hub.reachable() and hub.settings("a/b") == {}

    def unknown(*_, **__):
        raise OSError("a/b is not a local folder\nand is not a valid model identifier")

    monkeypatch.setattr("transformers.utils.cached_file", unknown)
    with pytest.raises(
        VistuneError, match=r"^a/b: neither a folder here nor a model.*Set model\.llm=FOLDER\.$"
    ):
        check_part("a/b", "model.llm")


def test_offline_by_choice_the_hub_is_not_tried(network, monkeypatch):
    network.listen()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.settings("a/b") == {"local_files_only": True} and hub.settings(Path("a")) == {}


def test_an_adapter_on_the_hub(network, whole, monkeypatch):
    network.listen()
    found = {"adapter_config.json": {"base_model_name_or_path": "lmsys/vicuna-7b"}}
    read = parts.read_json
    monkeypatch.setattr(
        parts, "read_json", lambda name, file: found.get(file) if name == "a/b" else read(name, file)
    )
    assert "a/b: a LoRA adapter, not a whole model. Take its base (lmsys/vicuna-7b)" in refusal(whole, "a/b")
