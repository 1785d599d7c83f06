"""Peers: tiny random models of transformers, asked through their own processors."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.small_tokenizers import llama, speaking
from tests.tiny import IMAGE_SIZE, tiny_checkpoint, tiny_llm, tiny_vision
from vistune.data.images import Flaw
from vistune.data.pictures import Pictures
from vistune.errors import VistuneError
from vistune.evaluate.answering.peer import NO_TEXT_ALONE, REFUSED, TOKEN_IN_TEXT, TOO_LONG, Peer
from vistune.model.checkpoint import save_checkpoint
from vistune.model.fingerprint import fingerprint
from vistune.question import Question

pytestmark = pytest.mark.filterwarnings("ignore")
SIDE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
VICUNA = (
    "{% for m in messages %}{{ m['role'] | upper + ': ' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
NARROW = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
QUESTIONS = [
    Question("1", "Where?"),
    Question("2", "What is in the picture?"),
    Question("3", "Is there a dog on the left of the picture, or are there two cats and a dog?"),
    Question("4", "How many {image}s of {question}s?"),
]


def shaken(model, seed=0):
    """Weights large enough that answers differ."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = 0.3 * torch.randn_like(parameter)
    return model.eval()


def own_tokenizer(chat=None):
    return speaking("llama-first", chat)


def write_llava(folder, chat=VICUNA):
    tokenizer = own_tokenizer()
    config = transformers.LlavaConfig(
        vision_config=tiny_vision().config,
        text_config=tiny_llm(len(tokenizer)).config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    shaken(transformers.LlavaForConditionalGeneration(config)).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=SIDE)
    transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=chat,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def write_blip2(folder, family="opt"):
    tokenizer = own_tokenizer()
    processor = transformers.Blip2Processor(BlipImageProcessorPil(size=SIDE), tokenizer, num_query_tokens=4)
    size = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 2}
    text = {
        "opt": transformers.OPTConfig(
            hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32,
            max_position_embeddings=128, **size,
        ),
        "t5": transformers.T5Config(
            d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=1, **size
        ),
    }[family]  # fmt: skip
    qformer = {**NARROW, "vocab_size": 30, "encoder_hidden_size": 24}
    del qformer["image_size"], qformer["patch_size"]
    config = transformers.Blip2Config(
        vision_config=NARROW, qformer_config=qformer, text_config=text.to_dict(), num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    shaken(transformers.Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_idefics3(folder):
    tokenizer = own_tokenizer()
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": IMAGE_SIZE},
        max_image_size={"longest_edge": IMAGE_SIZE},
    )
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=VICUNA)
    config = transformers.Idefics3Config(
        vision_config=NARROW,
        text_config=tiny_llm(len(tokenizer)).config.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    shaken(transformers.Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)


def write_paligemma(folder):
    tokenizer = own_tokenizer()
    tokenizer.pad_token = "<unk>"
    images = SiglipImageProcessorPil(size=SIDE)
    images.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config={**NARROW, "model_type": "siglip_vision_model", "projection_dim": 32},
        text_config=tiny_llm(len(tokenizer), "gemma").config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    shaken(transformers.PaliGemmaForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)


WRITE = {
    "llava": write_llava,
    "llava without a template": lambda folder: write_llava(folder, None),
    "blip-2 opt": write_blip2,
    "blip-2 t5": lambda folder: write_blip2(folder, "t5"),
    "idefics3": write_idefics3,
    "paligemma": write_paligemma,
}
NEEDS_PICTURE = ("blip-2 opt", "blip-2 t5", "paligemma")
PROMPTS = {
    "llava": "USER: <image>\nQUESTION ASSISTANT:",
    "llava without a template": "USER: <image>\nQUESTION ASSISTANT:",
    "blip-2 opt": "Question: QUESTION Answer:",
    "blip-2 t5": "Question: QUESTION Answer:",
    "idefics3": "USER: <image>\nQUESTION ASSISTANT:",
    "paligemma": "<image>answer en QUESTION",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each kind's checkpoint, written when it is first asked for."""

    class Written(dict):
        def __missing__(self, kind):
            folder = tmp_path_factory.mktemp("peer")
            WRITE[kind](folder)
            self[kind] = str(folder)
            return self[kind]

    return Written()


def photograph(seed, size=(37, 23)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


PICTURES = [photograph(seed, (20 + 9 * seed, 31)) for seed in range(len(QUESTIONS))]


@pytest.mark.parametrize("kind", WRITE)
def test_a_batch_answers_as_each_question_alone(kind, folders):
    peer = Peer.load(folders[kind], torch.float32)
    together = peer.answer_shown(QUESTIONS, PICTURES, 8)
    alone = [
        peer.answer_shown([question], [picture], 8)[0]
        for question, picture in zip(QUESTIONS, PICTURES, strict=True)
    ]
    assert together == alone
    assert len(set(together)) == len(QUESTIONS), together


@pytest.mark.parametrize("kind", WRITE)
def test_the_picture_and_the_question_both_count(kind, folders):
    peer = Peer.load(folders[kind], torch.float32)
    questions = [QUESTIONS[1]] * 3
    first, same, other = peer.answer_shown(questions, [PICTURES[0], PICTURES[0], PICTURES[3]], 12)
    assert first == same != other


@pytest.mark.parametrize("kind", WRITE)
def test_answers_are_what_transformers_generates_of_the_documented_prompt(kind, folders):
    """Asked one at a time, as each model's page says, and cut by hand."""
    processor = AutoProcessor.from_pretrained(folders[kind])
    model = AutoModelForImageTextToText.from_pretrained(folders[kind]).eval()
    question, picture = QUESTIONS[1], PICTURES[1]
    prompt = PROMPTS[kind].replace("QUESTION", question.text)
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    inputs.pop("labels", None)
    written = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
    asked = inputs["input_ids"][0].tolist()
    new = written if kind == "blip-2 t5" else written[len(asked) :]
    expected = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    assert Peer.load(folders[kind], torch.float32).answer_shown([question], [picture], 8) == [expected]
    assert expected


@pytest.mark.parametrize("kind", WRITE)
def test_questions_without_a_picture(kind, folders):
    peer = Peer.load(folders[kind], torch.float32)
    answers = peer.answer_shown(QUESTIONS, [PICTURES[0], None, None, PICTURES[3]], 8)
    expected = peer.answer_shown([QUESTIONS[0], QUESTIONS[3]], [PICTURES[0], PICTURES[3]], 8)
    assert [answers[0], answers[3]] == expected
    if kind in NEEDS_PICTURE:
        assert all(isinstance(answer, Flaw) and answer.reason == NO_TEXT_ALONE for answer in answers[1:3])
        assert all(answer.detail for answer in answers[1:3])
        with pytest.raises(VistuneError, match=r"no question without a picture \(.+Ask it with"):
            next(peer.answer(QUESTIONS, None, 8, 4))
    else:
        assert answers[1:3] == [peer.answer_shown([q], [None], 8)[0] for q in QUESTIONS[1:3]]
        assert list(peer.answer(QUESTIONS[1:3], None, 8, 1)) == list(
            zip(QUESTIONS[1:3], answers[1:3], strict=True)
        )


def test_pictures_are_opened_by_name_and_flaws_stay_with_their_question(folders, tmp_path):
    photograph(5).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    files = ["a.png", "missing.png", "broken.png", None]
    questions = [Question(str(n), QUESTIONS[n].text, file) for n, file in enumerate(files)]
    peer = Peer.load(folders["llava"], torch.float32)
    found = {question.id: answer for question, answer in peer.answer(questions, Pictures(tmp_path), 6, 3)}
    assert found["0"] == peer.answer_shown([questions[0]], [photograph(5)], 6)[0]
    assert (found["1"].reason, found["2"].reason) == ("picture is missing", "not a picture")
    assert found["3"] == peer.answer_shown([questions[3]], [None], 6)[0]


def test_what_cannot_be_asked_is_told_and_the_rest_answered(folders):
    questions = [
        QUESTIONS[0],
        Question("token", "What does <image> mean?"),
        Question("long", "dog " * 600),
        QUESTIONS[2],
    ]
    peer = Peer.load(folders["llava"], torch.float32)
    answers = peer.answer_shown(questions, PICTURES, 8)
    assert answers[1] == Flaw(TOKEN_IN_TEXT, "<image>")
    assert answers[2].reason == TOO_LONG
    assert answers[2].detail.endswith("tokens and 8 for the answer, of 512")
    assert [answers[0], answers[3]] == peer.answer_shown(
        [questions[0], questions[3]], [PICTURES[0], PICTURES[3]], 8
    )


def test_a_picture_that_the_processor_refuses_spoils_no_other(folders, monkeypatch):
    peer = Peer.load(folders["llava"], torch.float32)
    expected = peer.answer_shown(QUESTIONS, PICTURES, 6)
    kind = type(peer._processor)
    inner = kind.__call__

    def picky(self, images, **settings):
        if [PICTURES[2]] in images:
            raise ValueError("too odd")
        return inner(self, images=images, **settings)

    monkeypatch.setattr(kind, "__call__", picky)
    answers = peer.answer_shown(QUESTIONS, PICTURES, 6)
    assert answers[2] == Flaw(REFUSED, "too odd")
    assert [*answers[:2], answers[3]] == [*expected[:2], expected[3]]


@pytest.mark.parametrize("begin", ["{{ bos_token }}", ""])
def test_a_bos_is_written_once(begin, tmp_path, monkeypatch):
    """By the template or by the tokenizer."""
    write_llava(tmp_path, begin + VICUNA)
    peer, seen = Peer.load(str(tmp_path), torch.float32), []
    inner = peer._model.generate

    def watched(**inputs):
        seen.append(inputs["input_ids"])
        return inner(**inputs)

    monkeypatch.setattr(peer._model, "generate", watched)
    peer.answer_shown(QUESTIONS[:2], PICTURES[:2], 2)
    assert (seen[0] == peer._processor.tokenizer.bos_token_id).sum(1).tolist() == [1, 1]


def test_a_prompt_can_be_given(folders):
    peer = Peer.load(folders["llava"], torch.float32, prompt="{image} {question} In a word:")
    assert peer.description["prompt"] == "<image> QUESTION In a word:"
    assert peer.description["template"] == "given"
    default = Peer.load(folders["llava"], torch.float32)
    assert peer.answer_shown(QUESTIONS, PICTURES, 8) != default.answer_shown(QUESTIONS, PICTURES, 8)
    with pytest.raises(VistuneError, match="no place for the question"):
        Peer.load(folders["llava"], torch.float32, prompt="{image} Describe it.")


@pytest.mark.parametrize("kind", WRITE)
def test_the_description_says_how_answers_came_about(kind, folders):
    peer = Peer.load(folders[kind], torch.float32)
    told = json.loads(json.dumps(peer.description))
    assert told["prompt"] == PROMPTS[kind]
    assert ("chat template" in told["template"]) == (kind in ("llava", "idefics3"))
    assert told["class"].endswith("ForConditionalGeneration")
    assert told["checkpoint"] == fingerprint(folders[kind])
    assert told["decoding"]["strategy"] == "greedy"
    assert told["dtype"] == "float32"
    assert told["versions"]["transformers"] == transformers.__version__


def test_templates_made_for_text_alone_are_refused(tmp_path):
    for chat in (
        "{% for m in messages %}{{ m['role'] + ': ' + (m['content'] | string) }}{% endfor %}",
        "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}",
    ):
        write_llava(tmp_path, chat)
        with pytest.raises(VistuneError, match="no place for a picture and a question"):
            Peer.load(str(tmp_path), torch.float32)
    assert Peer.load(str(tmp_path), torch.float32, prompt="{image}{question}")


def test_what_is_no_peer_is_refused(folders, tmp_path):
    tiny_llm(60).save_pretrained(tmp_path / "llm")
    own_tokenizer().save_pretrained(tmp_path / "llm")
    with pytest.raises(VistuneError, match="cannot be loaded as an image-text-to-text model"):
        Peer.load(str(tmp_path / "llm"))
    for name in (str(tmp_path / "nothing"), "nothing", "run/instruct/chekpoint"):
        with pytest.raises(VistuneError, match="no such folder, and no name on the Hugging Face Hub"):
            Peer.load(name)
    write_idefics3(tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    with pytest.raises(VistuneError, match=r"no chat template, and no form of a prompt .* idefics3"):
        Peer.load(str(tmp_path / "bare"))


def test_missing_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    write_llava(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "linear_2.weight" in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VistuneError, match=r"1 weights are missing, such as .*linear_2\.weight"):
        Peer.load(str(tmp_path))


def test_a_fingerprint_is_of_the_content(folders, tmp_path, tokenizer):
    save_checkpoint(tiny_checkpoint(tokenizer), tmp_path / "a", {"run": "one"})
    save_checkpoint(tiny_checkpoint(tokenizer), tmp_path / "b", {"run": "two"})
    save_checkpoint(tiny_checkpoint(tokenizer, seed=1), tmp_path / "c")
    first = fingerprint(tmp_path / "a")
    assert first == fingerprint(str(tmp_path / "b")) != fingerprint(tmp_path / "c")
    for file in ("config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"):
        text = (tmp_path / "b" / file).read_text()
        (tmp_path / "b" / file).write_text(text + " ")
        assert fingerprint(tmp_path / "b") != first
        (tmp_path / "b" / file).write_text(text)
    assert fingerprint(tmp_path / "b") == first
    assert fingerprint("starter").startswith("sha256:")
    with pytest.raises(VistuneError, match="no weights"):
        fingerprint(tmp_path)


def test_a_fingerprint_can_be_made_by_hand(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "README.md").write_bytes(b"words")
    lines = [f"{hashlib.sha256(b'{}').hexdigest()}  config.json\n"]
    lines += [f"{hashlib.sha256(b'weights').hexdigest()}  model.safetensors\n"]
    assert fingerprint(tmp_path) == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_small_tokenizer_adds_a_bos():
    """Or the test of a doubled one could not fail."""
    assert llama("first")("x")["input_ids"][0] == llama("first").bos_token_id
