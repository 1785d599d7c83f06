"""Our assembled model against transformers' LlavaForConditionalGeneration, on tiny random weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, pipeline

from tests.tiny import IMAGE_SIZE, tiny_checkpoint
from vistune.conversation import Conversation, ask, gpt, human
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.model.decode import Prompt, complete

pytestmark = pytest.mark.filterwarnings("ignore")
TALK = Conversation(
    "talk",
    (
        human(*ask("What is in the picture?", "a.jpg")),
        gpt("A dog."),
        human("Where is the dog?"),
        gpt("On the left."),
    ),
)


@pytest.fixture(params=[("linear", "patch", -2), ("mlp2x_gelu", "cls_patch", -1)])
def checkpoint(request, tokenizer):
    connector, select, layer = request.param
    return tiny_checkpoint(tokenizer, connector=connector, vision_select=select, vision_layer=layer)


@pytest.fixture
def pixels():
    return torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def all_logits(checkpoint, ids, pixels):
    embeddings = checkpoint.model.embed(torch.tensor([ids]), pixels)
    return checkpoint.model.language_model(inputs_embeds=embeddings).logits[0]


@torch.no_grad()
def test_logits_equal_those_of_transformers_after_saving(checkpoint, pixels, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "saved")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    ids = checkpoint.renderer.encode(TALK).ids
    expected = theirs(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
    torch.testing.assert_close(all_logits(checkpoint, ids, pixels), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_loaded_checkpoint_computes_what_was_saved(checkpoint, pixels, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "saved")
    loaded = load_checkpoint(tmp_path / "saved")
    ids = checkpoint.renderer.encode(TALK).ids
    assert loaded.renderer.encode(TALK).ids == ids
    torch.testing.assert_close(
        all_logits(loaded, ids, pixels), all_logits(checkpoint, ids, pixels), atol=1e-6, rtol=1e-6
    )


def test_greedy_answers_equal_those_of_transformers(checkpoint, pixels, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "saved")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "saved").eval()
    prompt = checkpoint.renderer.encode_prompt(Conversation("q", TALK.turns[:1])).ids
    written = theirs.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        pixel_values=pixels,
        max_new_tokens=12,
        do_sample=False,
    )[0, len(prompt) :].tolist()
    asked = Prompt(prompt, ("picture",))
    ((_, ours),) = complete(checkpoint.model, [asked], lambda _: pixels, checkpoint.stop, 12)
    assert ours == [token for token in written if token != checkpoint.stop[0]]
    assert len(ours) > 3


MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    {"role": "user", "content": [{"type": "text", "text": "Where is the dog?"}]},
]


@pytest.fixture
def photograph():
    noise = np.random.default_rng(0).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_the_saved_processor_gives_the_ids_and_pixels_of_our_own_path(checkpoint, photograph, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    messages = [dict(message) for message in MESSAGES]
    messages[0]["content"] = [{"type": "image", "image": photograph}, MESSAGES[0]["content"][1]]
    theirs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    prompt = checkpoint.renderer.encode_prompt(Conversation("q", TALK.turns[:3])).ids
    assert theirs["input_ids"][0].tolist() == prompt
    ours = torch.from_numpy(checkpoint.preprocess(photograph))
    torch.testing.assert_close(theirs["pixel_values"][0], ours, atol=1e-6, rtol=0)


def test_a_pipeline_of_transformers_answers_as_we_do(checkpoint, photograph, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "saved")
    asked = [{"role": "user", "content": [{"type": "image", "image": photograph}, MESSAGES[0]["content"][1]]}]
    answering = pipeline("image-text-to-text", model=str(tmp_path / "saved"), device="cpu")
    theirs = answering(text=asked, max_new_tokens=8, do_sample=False, return_full_text=False)
    prompt = checkpoint.renderer.encode_prompt(Conversation("q", TALK.turns[:1])).ids
    pixels = torch.from_numpy(checkpoint.preprocess(photograph))[None]
    asked = Prompt(prompt, ("photograph",))
    ((_, ours),) = complete(checkpoint.model, [asked], lambda _: pixels, checkpoint.stop, 8)
    text = checkpoint.tokenizer.decode(ours, skip_special_tokens=True)
    assert theirs[0]["generated_text"].strip() == text.strip() != ""
