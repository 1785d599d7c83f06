"""Any text, template and kind of tokenizer: what is trained on is exactly the answers and their STOPs."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_tokenizers import CHAT_TEMPLATES, TOKENIZERS, with_chat_template
from vistune.conversation import IGNORE_INDEX, Conversation, Turn, ask, gpt, human
from vistune.template import TEMPLATES, Encoded, Renderer, find_template

PATCHES = 3
# What surrounds an answer where it is trained on, and whether outer white space is dropped; "" is the EOS.
WRITTEN = {
    "short": (" ", "", ""),
    "vicuna_v1": (" ", "", ""),
    "v0": (" ", "", "###"),
    "plain": ("", "", "\n"),
    "llama_2": (" ", " ", ""),
    "chatml": ("", "", "<|im_end|>"),
}
OWN = {
    "system": ("", "", "<|im_end|>"),
    "trimmed": ("", "", "<|im_end|>"),
    "listed": ("", "", "<|im_end|>"),
    "dated": ("", "", "<|im_end|>"),
    "bos": (" ", "", "</s>"),
    "pairs": (" ", " ", "</s>"),
    "text": ("", "", "\n\n"),
    "bare": ("", "", "</s>"),
}
TRIMMED = {"trimmed", "pairs"}
SPACED = {"llama-legacy", "llama-always"}  # these put a space behind every special token
CASES = [*product(WRITTEN, TOKENIZERS), *((name, "own") for name in OWN)]

IDS = ["-".join(case) for case in CASES]

SNARES = [
    "###",
    "</s>",
    "<s>",
    "<unk>",
    "<image>",
    "<pad>",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "<|endoftext|>",
    "<tool>",
    "<0x0A>",
    "▁",
    "Ġ",
    "\x01",
    "USER:",
    "ASSISTANT:",
    "[/INST]",
    "<</SYS>>",
    "Question1Mark",
    "{{ bos_token }}",
    "{% endfor %}",
    " ",
    "\n",
    "\t",
    ".",
    "🐕‍🦺",
    "é",
    "مرحبا",
    "\u202e",
    "\u00a0",
]
hostile = (
    st.lists(st.sampled_from(SNARES) | st.text(max_size=6), min_size=1, max_size=6)
    .map("".join)
    .filter(lambda text: text.strip("\n"))
)
talks = st.lists(st.tuples(hostile, hostile), min_size=1, max_size=3)


@cache
def renderer_of(name: str, which: str) -> tuple[Any, Renderer]:
    tokenizer = with_chat_template(name) if which == "own" else TOKENIZERS[which]()
    template = find_template("tokenizer", tokenizer) if which == "own" else TEMPLATES[name]
    return tokenizer, Renderer(template, tokenizer, tokenizer.convert_tokens_to_ids("<image>"), PATCHES)


def build(texts: list[tuple[str, str]], pictures: int) -> Conversation:
    """The pictures stand one each before the first questions."""
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(texts):
        turns += [human(*ask(question, f"{number}.jpg" if number < pictures else None)), gpt(answer)]
    return Conversation("1", tuple(turns))


def spoken(tokenizer: Any, encoded: Encoded, spaced: bool) -> str:
    """What is trained on, as text: each span decoded behind all that is before it."""
    texts = []
    start = 0
    while start < len(encoded.ids):
        end = start
        while end < len(encoded.ids) and encoded.labels[end] != IGNORE_INDEX:
            end += 1
        if end > start:
            before, whole = tokenizer.decode(encoded.ids[:start]), tokenizer.decode(encoded.ids[:end])
            assert whole.startswith(before)
            text = whole[len(before) :]
            if spaced and start and encoded.ids[start - 1] in tokenizer.added_tokens_decoder:
                assert text[0] == " ", "the tokenizer's own space, behind a special token"
                text = text[1:]
            texts.append(text)
        start = end + 1
    return "".join(texts)


@pytest.mark.parametrize(("name", "which"), CASES, ids=IDS)
@given(texts=talks, pictures=st.integers(0, 2))
@settings(max_examples=25)
def test_what_is_trained_on_decodes_to_exactly_the_answers_and_their_stops(name, which, texts, pictures):
    tokenizer, renderer = renderer_of(name, which)
    lead, trail, stop = OWN[name] if which == "own" else WRITTEN[name]
    encoded = renderer.encode(build(texts, pictures))
    answers = [answer.strip("\n") for _, answer in texts]
    if which == "own" and name in TRIMMED:
        answers = [answer.strip() for answer in answers]
    expected = "".join(f"{lead}{answer}{trail}{stop or tokenizer.eos_token}" for answer in answers)
    kind = CHAT_TEMPLATES[name][0] if which == "own" else which
    if kind.startswith("llama"):
        expected = expected.replace("▁", " ")  # SentencePiece writes a space so; it cannot tell them apart
    assert spoken(tokenizer, encoded, kind in SPACED) == expected
    assert all(label in (IGNORE_INDEX, id) for id, label in zip(encoded.ids, encoded.labels, strict=True))


@pytest.mark.parametrize(("name", "which"), CASES, ids=IDS)
@given(texts=talks, pictures=st.integers(0, 3))
@settings(max_examples=25)
def test_no_text_becomes_a_picture_or_a_special_token(name, which, texts, pictures):
    tokenizer, renderer = renderer_of(name, which)
    conversation = build(texts, pictures)
    plain = build([("x", "x")] * len(texts), pictures)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}

    def count(ids: list[int]) -> Counter[int]:
        return Counter(id for id in ids if id in special)

    ids = renderer.encode(conversation).ids
    assert count(ids) == count(renderer.encode(plain).ids)
    assert ids.count(tokenizer.convert_tokens_to_ids("<image>")) == PATCHES * len(conversation.pictures)


@pytest.mark.parametrize(("name", "which"), CASES, ids=IDS)
@given(texts=talks)
@settings(max_examples=15)
def test_prompts_are_the_beginnings_of_training_and_many_are_as_each_alone(name, which, texts):
    _, renderer = renderer_of(name, which)
    whole = build(texts, 1)
    shorter = [Conversation("1", whole.turns[:end]) for end in range(2, len(whole.turns) + 1, 2)]
    alone = [renderer.encode(conversation) for conversation in shorter]
    assert renderer.encode_all(shorter) == alone
    ids = alone[-1].ids
    starts = [0, *(place.length for place in alone[-1].answered)]
    for number, (start, place) in enumerate(zip(starts, alone[-1].answered, strict=False)):
        prompt = renderer.encode_prompt(Conversation("1", whole.turns[: 2 * number + 1]))
        assert ids[: len(prompt.ids)] == prompt.ids
        assert alone[-1].labels[: len(prompt.ids)] == prompt.labels
        assert start <= len(prompt.ids) < place.length
        assert IGNORE_INDEX not in alone[-1].labels[len(prompt.ids) : place.length]
        assert ids[place.length - len(renderer.stop) : place.length] == renderer.stop


@given(texts=talks)
@settings(max_examples=50)
def test_a_cut_is_the_beginning_of_the_whole_up_to_a_stop(texts):
    tokenizer, renderer = renderer_of("vicuna_v1", "llama-legacy")
    (folded,) = renderer.fold_all([build(texts, 2)])
    whole = folded.unfold()
    for most in range(len(whole.answered) and whole.answered[0].length, len(whole.ids)):
        kept = folded.cut(most)
        assert kept is not None
        cut = kept.unfold()
        assert len(cut.ids) <= most
        assert whole.ids[: len(cut.ids)] == cut.ids
        assert cut.ids[-1] == cut.labels[-1] == tokenizer.eos_token_id
        assert cut.ids.count(tokenizer.convert_tokens_to_ids("<image>")) == PATCHES * len(cut.pictures)
