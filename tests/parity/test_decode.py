"""Decoding many prompts together writes what each one alone would get from the whole model."""

import random

import pytest
import torch

from tests.tiny import IMAGE_SIZE, LLM_FAMILIES, tiny_checkpoint, tiny_llm
from vistune.conversation import Conversation, ask, human
from vistune.model.decode import Decoder, Prompt, Row, complete, stream

STOP = [1]
WORDS = "how many red dogs are there in the picture and what is left of the boat".split()


@pytest.fixture(params=LLM_FAMILIES)
def checkpoint(request, tokenizer):
    checkpoint = tiny_checkpoint(tokenizer)
    torch.manual_seed(3)
    model = checkpoint.model
    model.__init__(
        model.vision, model.connector, tiny_llm(len(tokenizer), request.param).eval(), model.image_token
    )
    return checkpoint


def pixels_of(names):
    generators = [torch.Generator().manual_seed(int(name)) for name in names]
    return torch.stack([torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=g) for g in generators])


def prompts_of(checkpoint, count, seed=0):
    """Prompts of many lengths: some share a picture, some have none, one has two."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        words = " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))
        pictures = [None, [str(number // 4)], [str(number // 4)], ["7", "8"]][rng.choice([0, 1, 2, 2, 1, 3])]
        talk = Conversation("q", (human(*ask(words, pictures)),))
        made.append(Prompt(checkpoint.renderer.encode_prompt(talk).ids, tuple(pictures or ())))
    return made


@torch.inference_mode()
def alone(model, prompt, most, stop=STOP):
    """The whole model over everything written so far, again for each token; no cache, no batch."""
    pixels = pixels_of(prompt.pictures) if prompt.pictures else None
    ids, written = list(prompt.ids), []
    while len(written) < most and written[-1:] != stop:
        logits = model.language_model(
            inputs_embeds=model.embed(torch.tensor([ids + written]), pixels), use_cache=False
        ).logits[0, -1]
        logits[model.image_token] = -torch.inf
        written.append(int(logits.argmax()))
    return written[:-1] if written[-1:] == stop else written


@pytest.fixture(params=["copied", "copied where alone", "apart"])
def stretches(request, monkeypatch):
    """Some stretches are copied into slots; the tests' are all short and small."""
    keys = "vistune.model.decode.keys"
    monkeypatch.setattr(f"{keys}._SHORT", 128 if request.param == "copied" else 0)
    monkeypatch.setattr(f"{keys}._SMALL", 0 if request.param == "apart" else 2**20)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.usefixtures("stretches")
def test_many_prompts_together_get_the_answers_of_each_alone(checkpoint, rows):
    prompts = prompts_of(checkpoint, 24)
    stop = [alone(checkpoint.model, prompts[5], 6)[3]]  # so that some answers end early
    answers = dict(complete(checkpoint.model, prompts, pixels_of, stop, 10, rows))
    assert answers == {n: alone(checkpoint.model, prompt, 10, stop) for n, prompt in enumerate(prompts)}
    assert len({len(answer) for answer in answers.values()}) > 1


def test_a_picture_is_encoded_once_for_neighbouring_questions(checkpoint):
    loaded = []

    def load(names):
        loaded.extend(names)
        return pixels_of(names)

    prompts = [p for p in prompts_of(checkpoint, 40) if len(p.pictures) == 1]
    prompts.sort(key=lambda prompt: prompt.pictures)
    assert len(dict(complete(checkpoint.model, prompts, load, STOP, 3))) == len(prompts) > 20
    assert sorted(loaded) == sorted({prompt.pictures[0] for prompt in prompts})


def test_streaming_yields_the_same_tokens_with_stop(checkpoint):
    prompt = next(p for p in prompts_of(checkpoint, 9) if len(p.pictures) == 2)
    expected = alone(checkpoint.model, prompt, 8)
    stop = [expected[4]] if expected[4] not in expected[:4] else [expected[0]]
    written = list(stream(checkpoint.model, prompt.ids, pixels_of(prompt.pictures), stop, 8))
    assert written == [*alone(checkpoint.model, prompt, 8, stop), *stop]


@torch.inference_mode()
@pytest.mark.usefixtures("stretches")
def test_a_row_goes_on_from_a_stretch_of_stretches_and_others_may_leave(checkpoint):
    model = checkpoint.model
    prompt = next(p for p in prompts_of(checkpoint, 9) if p.pictures)
    cuts = len(prompt.ids) - 2, len(prompt.ids) - 1
    decoder = Decoder(model, STOP)
    first = decoder.read([prompt.ids[: cuts[0]]], model.features(pixels_of(prompt.pictures)))
    second = decoder.read([prompt.ids[cuts[0] : cuts[1]]], None, first)
    rows = [Row(prompt.ids[cuts[1] :], 9, second[0]), Row(prompt.ids[cuts[0] :], 9, first[0])]
    other = Row(checkpoint.renderer.encode_prompt(Conversation("q", (human("why?"),))).ids, 9)
    ended = decoder.join([other, *rows])
    assert second[0].length == cuts[1] and second[0].bytes > first[0].bytes > 0
    decoder.leave(other)
    while len(ended) < 2:
        ended += decoder.step()
    expected = alone(model, prompt, 9)
    assert [decoder.answer(row) for row in rows] == [expected, expected] and len(other.written) == 1


@torch.inference_mode()
@pytest.mark.usefixtures("stretches")
def test_what_a_row_has_read_can_be_kept_and_gone_on_from(checkpoint):
    model = checkpoint.model
    prompt = next(p for p in prompts_of(checkpoint, 9) if p.pictures)
    row = Row(prompt.ids, 2, pictures=model.features(pixels_of(prompt.pictures)), keeps=True)
    decoder = Decoder(model, [-5])
    decoder.join([row])
    assert decoder.step() == [row] and len(decoder) == 0
    assert row.kept.length == len(prompt.ids) + 1  # the last token written was not read yet
    again = Row(row.written[-1:], 3, row.kept)
    ended = decoder.join([again])
    while again not in ended:
        ended += decoder.step()
    assert row.written + again.written == alone(model, prompt, 5, [-5])
