"""What we export, loaded and asked as the LLaVA adapters of other evaluators do it.

lmms-eval (``llava_hf``, chat and simple) and VLMEvalKit (``LLaVA_Next``) write a prompt with the export's
chat template, have the processor read it in a second call, and generate. The same calls are made here.
docs/other-evaluators.md says what they were read from. Servers read the template's text without adding any
special token, and transformers by itself reads it in one call: BOS comes once on each way.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from tests.small_tokenizers import CHAT_TEMPLATES, TOKENIZERS, speaking, with_chat_template
from tests.tiny import tiny_checkpoint
from vistune.conversation import Conversation, Picture, Turn, ask, gpt, human
from vistune.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vistune.model.decode import Prompt, complete
from vistune.model.transfer import export_checkpoint
from vistune.template import TEMPLATES

pytestmark = pytest.mark.filterwarnings("ignore")
MOST = 24
QUESTION = "What is in the picture?"
TALKS = {
    "picture": (human(*ask(QUESTION, "a.jpg")),),
    "text": (human("Where is the dog?"),),
    "turns": (
        human(*ask(QUESTION, "a.jpg")),
        gpt("A dog."),
        human("Where is the dog?"),
        gpt("On the left."),
        human("Sure?"),
    ),
}
WRITTEN = [(template, which) for template in TEMPLATES for which in TOKENIZERS]
CASES = [*WRITTEN, *(("tokenizer", name) for name in CHAT_TEMPLATES)]
MERGED = ("v0", "text")  # once an answer stands in the text; see test_templates.py
AGREEING = ["short", "vicuna_v1", "llama_2", "chatml"]


@dataclass(frozen=True)
class Exported:
    """A checkpoint, and what it was exported to."""

    checkpoint: Checkpoint
    folder: Path
    processor: Any

    @property
    def eos(self) -> int:
        return self.checkpoint.tokenizer.eos_token_id


def export(folder: Path, checkpoint: Checkpoint) -> Exported:
    save_checkpoint(checkpoint, folder / "ours")
    out = export_checkpoint(str(folder / "ours"), folder / "export", "float32")
    processor = AutoProcessor.from_pretrained(out, trust_remote_code=False)
    processor.tokenizer.padding_side = "left"
    return Exported(checkpoint, out, processor)


def tiny(template: str, which: str, **settings: Any) -> Checkpoint:
    tokenizer = with_chat_template(which) if template == "tokenizer" else speaking(which, None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tiny_checkpoint(tokenizer, template=template, **settings)


def photograph(seed: int = 0, size: tuple[int, int] = (37, 23)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def messages(turns: tuple[Turn, ...], picture: Image.Image) -> list[dict[str, Any]]:
    """As lmms-eval's tasks give them: the picture itself is in its part."""
    roles = {"human": "user", "gpt": "assistant"}
    return [
        {
            "role": roles[turn.speaker],
            "content": [
                *({"type": "image", "url": picture} for part in turn.content if isinstance(part, Picture)),
                {"type": "text", "text": turn.text},
            ],
        }
        for turn in turns
    ]


def asked_in_two_calls(processor: Any, turns: tuple[Turn, ...], picture: Image.Image) -> Any:
    """lmms-eval's chat adapter: the template's text, which the processor then reads beside the pictures."""
    text = processor.apply_chat_template(messages(turns, picture), tokenize=False, add_generation_prompt=True)
    shown = [picture for turn in turns for part in turn.content if isinstance(part, Picture)]
    return processor(images=shown or None, videos=None, text=text, return_tensors="pt")


def asked_in_one_call(processor: Any, turns: tuple[Turn, ...], picture: Image.Image) -> Any:
    """transformers' own way."""
    return processor.apply_chat_template(
        messages(turns, picture),
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


def asked_as_servers_do(processor: Any, turns: tuple[Turn, ...], picture: Image.Image) -> Any:
    """vLLM's and SGLang's: the template's text is all that the model is to read."""
    text = processor.apply_chat_template(messages(turns, picture), tokenize=False, add_generation_prompt=True)
    shown = [picture for turn in turns for part in turn.content if isinstance(part, Picture)]
    return processor(images=shown or None, text=text, add_special_tokens=False, return_tensors="pt")


def asked_by_parts(processor: Any, question: str, picture: Image.Image) -> Any:
    """VLMEvalKit's: a message whose picture is named, not held."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=prompt, images=[picture], return_tensors="pt")


def asked_as_a_string(processor: Any, question: str, picture: Image.Image) -> Any:
    """lmms-eval's simple adapter: the picture's token is a part of the words, the tokenizer writes them."""
    content = f"<image>\n{question}"
    prompt = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return processor(images=[picture], text=prompt, return_tensors="pt")


def our_ids(checkpoint: Checkpoint, turns: tuple[Turn, ...]) -> list[int]:
    return checkpoint.renderer.encode_prompt(Conversation("q", turns)).ids


def our_answer(checkpoint: Checkpoint, turns: tuple[Turn, ...], picture: Image.Image) -> list[int]:
    prompt = Prompt(our_ids(checkpoint, turns), tuple(Conversation("q", turns).pictures))
    pixels = torch.from_numpy(checkpoint.preprocess(picture))[None]
    ((_, ids),) = complete(
        checkpoint.model, [prompt], lambda files: pixels.expand(len(files), -1, -1, -1), checkpoint.stop, MOST
    )
    return ids


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize(("template", "which"), CASES, ids=["-".join(case) for case in CASES])
def test_the_ids_are_ours(template, which, talk, tmp_path):
    exported = export(tmp_path, tiny(template, which))
    ours = our_ids(exported.checkpoint, TALKS[talk])
    for asked in (asked_in_two_calls, asked_in_one_call, asked_as_servers_do):
        found = asked(exported.processor, TALKS[talk], photograph())["input_ids"][0].tolist()
        if talk == "turns" and (template in MERGED or which in MERGED):
            tokenizer = exported.checkpoint.tokenizer
            assert tokenizer.decode(found) == tokenizer.decode(ours)
        else:
            tokens = exported.processor.tokenizer.convert_ids_to_tokens
            assert tokens(found) == tokens(ours)


@pytest.mark.parametrize("which", TOKENIZERS)
@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - {"plain"}))  # which writes no question
def test_all_three_ways_of_asking_are_one(template, which, tmp_path):
    exported, picture = export(tmp_path, tiny(template, which)), photograph()
    first = asked_in_two_calls(exported.processor, TALKS["picture"], picture)
    for other in (
        asked_by_parts(exported.processor, QUESTION, picture),
        asked_as_a_string(exported.processor, QUESTION, picture),
    ):
        assert other["input_ids"].tolist() == first["input_ids"].tolist()
        assert torch.equal(other["pixel_values"], first["pixel_values"])


@pytest.mark.parametrize("which", TOKENIZERS)
def test_a_prompt_written_by_hand_is_ours(which, tmp_path):
    """As adapters with a prompt of their own do it; it begins with BOS, where there is one."""
    exported = export(tmp_path, tiny("short", which))
    begin = exported.processor.tokenizer.init_kwargs.get("vistune_begin", "")
    text = f"{begin}USER: <image>\n{QUESTION} ASSISTANT:"
    inputs = exported.processor(images=photograph(), text=text, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == our_ids(exported.checkpoint, TALKS["picture"])


@pytest.mark.parametrize("size", [(37, 23), (23, 60), (16, 16), (300, 41)])
@pytest.mark.parametrize("padded", [False, True])
def test_the_pixels_are_ours(size, padded, tmp_path):
    checkpoint = tiny("short", "starter", preprocessing="pad" if padded else "square")
    if padded:
        checkpoint = dataclasses.replace(checkpoint, preprocess=checkpoint.preprocess.padded())
    exported, picture = export(tmp_path, checkpoint), photograph(1, size)
    found = asked_in_two_calls(exported.processor, TALKS["picture"], picture)["pixel_values"]
    ours = torch.from_numpy(checkpoint.preprocess(picture))[None]
    torch.testing.assert_close(found, ours, atol=1e-6, rtol=0)


def generated(exported: Exported, inputs: Any) -> list[int]:
    """With the settings that both adapters give; neither leaves the export's own ``eos_token_id``."""
    model = LlavaForConditionalGeneration.from_pretrained(
        exported.folder, dtype="auto", device_map="cpu", trust_remote_code=False
    ).eval()
    with torch.inference_mode():
        written = model.generate(
            **inputs.to("cpu", model.dtype),
            do_sample=False,
            temperature=None,
            top_p=None,
            num_beams=1,
            max_new_tokens=MOST,
            use_cache=True,
            pad_token_id=exported.eos,
            eos_token_id=exported.eos,
        )
    return written[0, inputs["input_ids"].shape[-1] :].tolist()


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu"])
@pytest.mark.parametrize("template", AGREEING)
def test_the_generated_tokens_are_ours(template, connector, talk, tmp_path):
    exported = export(tmp_path, tiny(template, "chatml", connector=connector))
    assert exported.checkpoint.stop == [exported.eos]
    found = generated(exported, asked_in_two_calls(exported.processor, TALKS[talk], photograph()))
    ours = our_answer(exported.checkpoint, TALKS[talk], photograph())
    assert found == ours + [exported.eos] * (len(ours) < MOST)
    assert len(set(ours)) > 3


def test_the_starter_answers_as_with_us(tiny_world, tmp_path):
    """Trained weights, real questions: answers that end."""
    exported = export(tmp_path, load_checkpoint("starter"))
    for number, question in enumerate(
        ["What is in the picture?", "How many dogs are there?", "Is there a cat?"]
    ):
        picture = Image.open(tiny_world / "images" / f"train_{number:06d}.jpg").convert("RGB")
        turns = (human(*ask(question, "a.jpg")),)
        ours = our_answer(exported.checkpoint, turns, picture)
        for inputs in (
            asked_in_two_calls(exported.processor, turns, picture),
            asked_by_parts(exported.processor, question, picture),
        ):
            assert generated(exported, inputs) == [*ours, exported.eos]
        text = exported.processor.tokenizer.decode(ours, skip_special_tokens=True)
        assert text.strip().endswith(".")


def test_the_class_is_found_by_the_configuration(tmp_path):
    """Adapters choose the model's class by it."""
    exported = export(tmp_path, tiny("short", "starter"))
    assert AutoConfig.from_pretrained(exported.folder).model_type == "llava"
    assert type(exported.processor).__name__ == "LlavaProcessor"
