"""Conversation -> ids and labels: exactly answers and their STOPs are trained on, whatever the text says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistune.conversation import IGNORE_INDEX, Conversation, Picture, Turn, ask, gpt, human
from vistune.errors import VistuneError
from vistune.starter.tokenizer import train_tokenizer
from vistune.template import TEMPLATES, Encoded, Renderer, chat_template, find_template

PATCHES = 4
CURIOUS_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CURIOUS_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
STOPS = {"short": "</s>", "vicuna_v1": "</s>", "v0": "###", "plain": "\n"}
NAMES = sorted(STOPS)

DOG = Conversation("1", (human(*ask("What is this?", "dog.jpg")), gpt("A dog.")))
DOG_LAST = Conversation("2", (human("What is this?\n", Picture("dog.jpg")), gpt("A dog.")))
TALK = Conversation(
    "3",
    (
        human(*ask("What is this?", "dog.jpg")),
        gpt("A dog."),
        human("How many?"),
        gpt("Two.\n\nNo, one."),
        human("Sure?"),
        gpt("Yes."),
    ),
)
LAYOUTS = {
    ("short", "DOG"): "USER: <image>\nWhat is this? ASSISTANT:| A dog.</s>",
    ("short", "DOG_LAST"): "USER: What is this?\n<image> ASSISTANT:| A dog.</s>",
    ("short", "TALK"): (
        "USER: <image>\nWhat is this? ASSISTANT:| A dog.</s>|USER: How many? ASSISTANT:| Two.\n\nNo, one.</s>"
        "|USER: Sure? ASSISTANT:| Yes.</s>"
    ),
    ("vicuna_v1", "DOG"): f"{CURIOUS_USER} USER: <image>\nWhat is this? ASSISTANT:| A dog.</s>",
    ("vicuna_v1", "TALK"): (
        f"{CURIOUS_USER} USER: <image>\nWhat is this? ASSISTANT:| A dog.</s>"
        "|USER: How many? ASSISTANT:| Two.\n\nNo, one.</s>|USER: Sure? ASSISTANT:| Yes.</s>"
    ),
    ("v0", "DOG"): f"{CURIOUS_HUMAN}###Human: <image>\nWhat is this?###Assistant:| A dog.###",
    ("v0", "TALK"): (
        f"{CURIOUS_HUMAN}###Human: <image>\nWhat is this?###Assistant:| A dog.###"
        "|Human: How many?###Assistant:| Two.\n\nNo, one.###|Human: Sure?###Assistant:| Yes.###"
    ),
    ("plain", "DOG"): "<image>|A dog.\n",
    ("plain", "DOG_LAST"): "<image>|A dog.\n",
}
CONVERSATIONS = {"DOG": DOG, "DOG_LAST": DOG_LAST, "TALK": TALK}


@pytest.fixture(scope="module")
def image_token(tokenizer: Any) -> int:
    token: int = tokenizer.convert_tokens_to_ids("<image>")
    return token


@pytest.fixture(scope="module")
def renderers(tokenizer: Any, image_token: int) -> dict[str, Renderer]:
    return {name: Renderer(TEMPLATES[name], tokenizer, image_token, PATCHES) for name in NAMES}


def supervised_text(tokenizer: Any, encoded: Encoded) -> str:
    text: str = tokenizer.decode([label for label in encoded.labels if label != IGNORE_INDEX])
    return text


# Exact layouts: `|` stands where what is trained on begins or ends


@pytest.mark.parametrize(("name", "which"), LAYOUTS, ids="-".join)
def test_text_and_supervised_spans_are_exactly_the_layout(renderers, tokenizer, name: str, which: str):
    encoded = renderers[name].encode(CONVERSATIONS[which])
    pieces: list[list[int]] = []
    trained_before = None
    for token, label in zip(encoded.ids, encoded.labels, strict=True):
        trained = label != IGNORE_INDEX
        if trained != trained_before:
            pieces.append([])
        pieces[-1].append(token)
        trained_before = trained
    text = "|".join(tokenizer.decode(piece) for piece in pieces)
    assert text.replace("<image>" * PATCHES, "<image>") == LAYOUTS[name, which]


def test_ids_and_labels_of_a_layout_letter_by_letter():
    """Of a tokenizer that has learned nothing, every letter is one id."""
    letters = train_tokenizer([], vocabulary=0)
    id_of = letters.convert_tokens_to_ids
    image, stop, space, line_break = id_of("<image>"), id_of("</s>"), id_of("Ġ"), id_of("Ċ")
    encoded = Renderer(TEMPLATES["short"], letters, image, patches=2).encode(
        Conversation("1", (human(*ask("Hi?", "a.jpg")), gpt("No.")))
    )
    prompt = [*map(id_of, "USER:"), space, image, image, line_break, *map(id_of, "Hi?"), space]
    prompt += map(id_of, "ASSISTANT:")
    answer = [space, id_of("N"), id_of("o"), id_of("."), stop]
    assert encoded.ids == prompt + answer
    assert encoded.labels == [-100] * len(prompt) + answer
    assert encoded.supervised == 5
    assert encoded.pictures == ["a.jpg"]


@pytest.mark.parametrize("name", NAMES)
def test_supervised_text_is_exactly_the_answers_and_their_stops(renderers, tokenizer, name: str):
    lead, stop = "" if name == "plain" else " ", STOPS[name]
    expected = "".join(f"{lead}{answer}{stop}" for answer in ("A dog.", "Two.\n\nNo, one.", "Yes."))
    assert supervised_text(tokenizer, renderers[name].encode(TALK)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_labels_repeat_the_ids_where_they_are_trained_on(renderers, image_token: int, name: str):
    encoded = renderers[name].encode(TALK)
    trained = [(i, label) for i, label in zip(encoded.ids, encoded.labels, strict=True) if label != -100]
    assert all(token == label for token, label in trained)
    assert encoded.supervised == len(trained)
    assert image_token not in [label for _, label in trained]


def test_line_breaks_around_an_answer_are_not_trained_on(renderers):
    padded = Conversation("1", (DOG.turns[0], gpt("\nA dog.\n\n")))
    assert renderers["v0"].encode(padded) == renderers["v0"].encode(DOG)


def test_every_template_is_tested_and_found_by_its_name():
    assert sorted(TEMPLATES) == NAMES
    assert [find_template(name).name for name in NAMES] == NAMES


def test_unknown_template_is_refused_with_the_choices():
    with pytest.raises(
        VistuneError, match=r"Unknown template 'v2'. Choose one of: plain, short, v0, vicuna_v1"
    ):
        find_template("v2")


# Prompts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answered", [0, 1, 2])
def test_prompt_is_what_training_saw_before_the_answer(renderers, name: str, answered: int):
    renderer = renderers[name]
    asked = Conversation("3", TALK.turns[: 2 * answered + 1])
    prompt = renderer.encode_prompt(asked)
    whole = renderer.encode(Conversation("3", TALK.turns[: 2 * answered + 2]))
    end = len(prompt.ids)
    assert whole.ids[:end] == prompt.ids
    assert whole.labels[:end] == prompt.labels
    assert IGNORE_INDEX not in whole.labels[end:]
    if TEMPLATES[name].questions or not answered:
        assert prompt.labels[-1] == IGNORE_INDEX


@pytest.mark.parametrize("name", NAMES)
def test_prompt_of_a_later_turn_is_a_prefix_of_the_whole_conversation(renderers, name: str):
    prompt = renderers[name].encode_prompt(Conversation("3", TALK.turns[:3]))
    assert renderers[name].encode(TALK).ids[: len(prompt.ids)] == prompt.ids


# Hostile text

SNARES = [
    "</s>",
    "<image>",
    "<pad>",
    "###",
    "USER:",
    "ASSISTANT:",
    "\n",
    "Human: ",
    "<s>",
    "[INST]",
    "🐕‍🦺",
    "مرحبا",
    "\u202e",
]
hostile = (
    st.lists(st.sampled_from(SNARES) | st.text(max_size=8), min_size=1, max_size=6)
    .map("".join)
    .filter(lambda text: text.strip("\n"))
)
talks = st.lists(st.tuples(hostile, hostile), min_size=1, max_size=3)


def build(texts: list[tuple[str, str]], pictures: int) -> Conversation:
    """The pictures stand one each before the first questions."""
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(texts):
        turns += [human(*ask(question, f"{number}.jpg" if number < pictures else None)), gpt(answer)]
    return Conversation("1", tuple(turns))


@pytest.mark.parametrize("name", NAMES)
@given(texts=talks, pictures=st.integers(0, 3))
@settings(max_examples=60)
def test_no_text_becomes_a_picture_or_a_special_id(renderers, tokenizer, image_token, name, texts, pictures):
    conversation = build(texts, pictures)
    ids = renderers[name].encode(conversation).ids
    stops = len(texts) if STOPS[name] == "</s>" else 0
    assert ids.count(image_token) == PATCHES * len(conversation.pictures)
    assert ids.count(tokenizer.eos_token_id) == stops
    assert tokenizer.pad_token_id not in ids


@pytest.mark.parametrize("name", NAMES)
@given(texts=talks)
@settings(max_examples=60)
def test_any_answer_is_trained_on_whole_and_nothing_else_is(renderers, tokenizer, name, texts):
    lead, stop = "" if name == "plain" else " ", STOPS[name]
    expected = "".join(lead + answer.strip("\n") + stop for _, answer in texts)
    assert supervised_text(tokenizer, renderers[name].encode(build(texts, 1))) == expected


@pytest.mark.parametrize("name", NAMES)
@given(texts=talks)
@settings(max_examples=40)
def test_prompt_is_a_prefix_of_training_for_any_text(renderers, name, texts):
    conversation = build(texts, 1)
    prompt = renderers[name].encode_prompt(Conversation("1", conversation.turns[:-1]))
    assert renderers[name].encode(conversation).ids[: len(prompt.ids)] == prompt.ids


# The same layout for other engines


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    roles = {"human": "user", "gpt": "assistant"}
    return [
        {
            "role": roles[turn.speaker],
            "content": [
                *({"type": "image"} for part in turn.content if isinstance(part, Picture)),
                {"type": "text", "text": turn.text},
            ],
        }
        for turn in conversation.turns
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("turns", [1, 2, 3, 6])
def test_chat_template_writes_what_the_renderer_writes(renderers, tokenizer, name: str, turns: int):
    conversation = Conversation("3", TALK.turns[:turns])
    ends_with_question = turns % 2 == 1
    renderer = renderers[name]
    ours = renderer.encode_prompt(conversation) if ends_with_question else renderer.encode(conversation)
    text = tokenizer.decode(ours.ids)
    assert re.sub("(?:<image>){4}", "<image>", text) == tokenizer.apply_chat_template(
        messages(conversation),
        chat_template=chat_template(TEMPLATES[name]),
        tokenize=False,
        add_generation_prompt=ends_with_question,
    )
