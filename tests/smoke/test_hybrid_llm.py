"""An LLM with recurrent state (LFM2), by the command line: trained alone, answering as transformers does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from PIL import Image

from tests.tiny import IMAGE_SIZE, tiny_vision
from vistune.data.images import Preprocessor
from vistune.data.records import write_records

VISTUNE = Path(sys.executable).with_name("vistune")
MOST = 8


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [VISTUNE, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def recipe(tmp_path: Path, tokenizer) -> Path:
    torch.manual_seed(0)
    tiny_vision().save_pretrained(tmp_path / "vision")
    Preprocessor(IMAGE_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).save(tmp_path / "vision")
    config = transformers.Lfm2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        layer_types=["conv", "full_attention", "conv"],
        initializer_range=0.3,  # random answers that differ from each other
    )
    transformers.Lfm2ForCausalLM(config).save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    stage = {
        "trains": ["connector", "llm"],
        "data": {"conversation.json": 1},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_steps": 3,
    }
    parts = {"vision": str(tmp_path / "vision"), "llm": str(tmp_path / "llm")}
    model = {**parts, "template": "short", "max_length": 512}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": model, "stages": {"instruct": stage}}))
    return tmp_path / "recipe.yaml"


def test_it_trains_alone_and_answers_as_transformers_does_from_the_same_folder(
    recipe: Path, data: Path, images: Path, tmp_path: Path
) -> None:
    told = run("train", recipe, "--data", data, "--images", images, "--out", tmp_path / "run").stderr
    assert "packing is off" in told and "each dialogue is computed alone" in " ".join(told.split())
    checkpoint = tmp_path / "run" / "instruct" / "checkpoint"
    asked = json.loads((data / "conversation.json").read_text())
    questions = [{**record, "conversations": record["conversations"][:2]} for record in asked]
    write_records(tmp_path / "questions.json", questions)
    run("evaluate", checkpoint, "own", "--data", tmp_path / "questions.json", "--images", images,
        "--out", tmp_path / "scores", "--max-new-tokens", MOST)  # fmt: skip
    (answers,) = (tmp_path / "scores").glob("answers.jsonl")
    ours = [json.loads(line)["answer"] for line in answers.read_text().splitlines()]
    assert ours == [answer_of_transformers(checkpoint, images, record) for record in questions]
    assert len(ours) == 8 and len(set(ours)) > 1


def answer_of_transformers(checkpoint: Path, images: Path, record: dict) -> str:
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    picture = {"type": "image", "image": Image.open(images / record["image"]).convert("RGB")}
    said = record["conversations"][0]["value"]
    words = {"type": "text", "text": said.replace("<image>", "").strip("\n")}
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [picture, words]}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    written = model.generate(**inputs, max_new_tokens=MOST, do_sample=False)
    answer = written[0, inputs["input_ids"].shape[1] :]
    return processor.decode(answer, skip_special_tokens=True).strip()
