"""Conversation -> ids and labels: exactly answers and their STOPs are trained on, whatever the text says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vistune.conversation import IGNORE_INDEX, Conversation, Picture, ask, gpt, human
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
VISION_ASSISTANT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language."
)
STOPS = {
    "short": "</s>",
    "vicuna_v1": "</s>",
    "v0": "###",
    "plain": "\n",
    "llama_2": "</s>",
    "chatml": "<|im_end|>",
}
# What an answer begins and ends with, trained on like the answer.
AROUND = {name: (" ", "") for name in STOPS} | {"plain": ("", ""), "chatml": ("", ""), "llama_2": (" ", " ")}
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
    ("llama_2", "DOG"): (
        f"[INST] <<SYS>>\n{VISION_ASSISTANT}\n<</SYS>>\n\n<image>\nWhat is this? [/INST]| A dog. </s>"
    ),
    ("llama_2", "TALK"): (
        f"[INST] <<SYS>>\n{VISION_ASSISTANT}\n<</SYS>>\n\n<image>\nWhat is this? [/INST]| A dog. </s>"
        "|[INST] How many? [/INST]| Two.\n\nNo, one. </s>|[INST] Sure? [/INST]| Yes. </s>"
    ),
    ("chatml", "DOG"): (
        "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n|A dog.<|im_end|>|\n"
    ),
    ("chatml", "TALK"): (
        "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n|A dog.<|im_end|>|\n"
        "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n|Two.\n\nNo, one.<|im_end|>|\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n|Yes.<|im_end|>|\n"
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


@pytest.mark.parametrize(("name", "which"), LAYOUTS, ids=map("-".join, LAYOUTS))
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


def letter_ids(text: str, letters: Any) -> list[int]:
    """Ids of a layout for a tokenizer to which every letter is one id."""
    ids: list[int] = []
    for piece in re.split("(<image>|</s>)", text):
        if piece in ("<image>", "</s>"):
            ids += [letters.convert_tokens_to_ids(piece)] * (PATCHES if piece == "<image>" else 1)
        else:
            ids += [
                letters.convert_tokens_to_ids({" ": "Ġ", "\n": "Ċ"}.get(letter, letter)) for letter in piece
            ]
    return ids


@pytest.mark.parametrize(("name", "which"), LAYOUTS, ids=map("-".join, LAYOUTS))
def test_every_id_and_label_of_a_layout(name: str, which: str):
    letters = train_tokenizer([], vocabulary=0)
    image = letters.convert_tokens_to_ids("<image>")
    ids: list[int] = []
    labels: list[int] = []
    for number, text in enumerate(re.split(r"(?<!<)[|](?!>)", LAYOUTS[name, which])):
        piece = letter_ids(text, letters)
        ids += piece
        labels += piece if number % 2 else [IGNORE_INDEX] * len(piece)
    encoded = Renderer(TEMPLATES[name], letters, image, PATCHES).encode(CONVERSATIONS[which])
    assert encoded.ids == ids
    assert encoded.labels == labels


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
    (lead, trail), stop = AROUND[name], STOPS[name]
    expected = "".join(f"{lead}{answer}{trail}{stop}" for answer in ("A dog.", "Two.\n\nNo, one.", "Yes."))
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
        VistuneError, match=r"Unknown template 'v2'. Choose one of: chatml, llama_2, plain, .*, tokenizer\."
    ):
        find_template("v2")


# Prompts


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answered", [0, 1, 2])
def test_prompt_is_what_training_saw_before_the_answer(renderers, tokenizer, name: str, answered: int):
    renderer = renderers[name]
    asked = Conversation("3", TALK.turns[: 2 * answered + 1])
    prompt = renderer.encode_prompt(asked)
    whole = renderer.encode(Conversation("3", TALK.turns[: 2 * answered + 2]))
    end = len(prompt.ids)
    assert whole.ids[:end] == prompt.ids
    assert whole.labels[:end] == prompt.labels
    after_stop = len(tokenizer.encode(TEMPLATES[name].after_stop))
    assert whole.labels[end:].count(IGNORE_INDEX) == after_stop
    if TEMPLATES[name].questions or not answered:
        assert prompt.labels[-1] == IGNORE_INDEX


@pytest.mark.parametrize("name", NAMES)
def test_prompt_of_a_later_turn_is_a_prefix_of_the_whole_conversation(renderers, name: str):
    prompt = renderers[name].encode_prompt(Conversation("3", TALK.turns[:3]))
    assert renderers[name].encode(TALK).ids[: len(prompt.ids)] == prompt.ids


def test_a_prompt_must_end_with_a_question(renderers):
    with pytest.raises(ValueError, match="must end with a question"):
        renderers["short"].encode_prompt(DOG)


# What ends an answer


@pytest.mark.parametrize("name", NAMES)
def test_the_ids_of_the_stop_are_those_that_every_answer_is_trained_to_end_with(renderers, name: str):
    renderer = renderers[name]
    for length, _ in (encoded := renderer.encode(TALK)).answered:
        assert encoded.labels[length - len(renderer.stop) : length] == renderer.stop


# Many at once


@pytest.mark.parametrize("name", NAMES)
def test_many_conversations_are_encoded_as_each_alone(renderers, tokenizer, image_token: int, name: str):
    many = [DOG, DOG_LAST, TALK, DOG, Conversation("4", (human("Hello."), gpt("Hi.")))]
    fresh = Renderer(TEMPLATES[name], tokenizer, image_token, PATCHES)
    assert fresh.encode_all(many) == [renderers[name].encode(conversation) for conversation in many]
    assert fresh.encode_all([]) == []


def test_a_text_that_comes_again_is_encoded_once(tokenizer, image_token: int):
    class Backend:
        """Counts the texts that the tokenizer is given."""

        is_fast = True

        def __init__(self) -> None:
            self.texts: list[str] = []
            self.backend_tokenizer = self

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name, None) or getattr(tokenizer.backend_tokenizer, name)

        def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
            self.texts += texts
            return tokenizer.backend_tokenizer.encode_batch_fast(texts, **options)

    backend = Backend()
    renderer = Renderer(TEMPLATES["vicuna_v1"], backend, image_token, PATCHES)
    backend.texts.clear()
    renderer.encode_all([DOG, DOG, Conversation("5", (DOG.turns[0], gpt("A cat.")))])
    renderer.encode(DOG)
    head = f"{CURIOUS_USER} USER: "
    assert sorted(backend.texts) == sorted([head, "\nWhat is this? ASSISTANT:", " A dog.", " A cat."])


# Cut to a length


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_cut_after_the_last_whole_answer_that_fits(renderers, name: str):
    whole = renderers[name].encode(TALK)
    (folded,) = renderers[name].fold_all([TALK])
    ends = [place.length for place in whole.answered]
    assert len(ends) == 3 and len(folded) == len(whole.ids) and folded.supervised == whole.supervised
    for most in range(1, len(whole.ids) + 3):
        kept = folded.cut(most)
        fitting = [end for end in ends if end <= most]
        if len(whole.ids) <= most:
            assert kept is folded
        elif fitting:
            end = fitting[-1]
            assert kept is not None and len(kept) == end
            cut = kept.unfold()
            assert (cut.ids, cut.labels) == (whole.ids[:end], whole.labels[:end])
            assert cut.labels[-1] != IGNORE_INDEX
            assert cut.pictures == ["dog.jpg"]
            assert cut.answered == whole.answered[: len(fitting)]
        else:
            assert kept is None


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_keeps_the_pictures_that_it_holds_and_no_others(renderers, image_token: int, name: str):
    two = Conversation("6", (*DOG.turns, human(*ask("And this?", ["cat.jpg", "cow.jpg"])), gpt("Two.")))
    (whole,) = renderers[name].fold_all([two])
    kept = whole.cut(len(whole) - 1 - len(TEMPLATES[name].after_stop))
    assert kept is not None
    cut = kept.unfold()
    assert cut.pictures == ["dog.jpg"]
    assert cut.ids.count(image_token) == PATCHES
    assert cut.ids == renderers[name].encode(DOG).ids[: len(cut.ids)]


def test_an_answer_that_is_too_long_by_itself_is_not_cut(renderers):
    (long,) = renderers["short"].fold_all([Conversation("7", (DOG.turns[0], gpt("A dog. " * 99)))])
    assert long.cut(len(long) - 1) is None


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
