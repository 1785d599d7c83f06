"""Our chat templates, rendered and tokenised by transformers, give the ids of our own path.

Two that no special token divides differ by design once an answer stands in the text, and give the same text
then: `v0`, whose STOP a tokenizer may merge with an answer's full stop (a model must be able to write the
answer first), and `text`, whose prompts end with a space (which it would merge with the answer's first word).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.small_tokenizers import CHAT_TEMPLATES, TOKENIZERS, with_chat_template
from vistune.conversation import Conversation, Picture, ask, gpt, human
from vistune.template import TEMPLATES, Renderer, find_template

MERGED = ("v0", "text")
WRITTEN = list(product(TEMPLATES, TOKENIZERS))
TALK = Conversation(
    "talk",
    (
        human(*ask("What is in the picture?", ["a.jpg", "b.jpg"])),
        gpt("A dog."),
        human("Where is the dog?"),
        gpt("On the left.\n\nOf the picture"),
        human("Sure?"),
        gpt("Yes"),
    ),
)


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


def check(tokenizer: Any, renderer: Renderer, turns: int, merged: bool) -> None:
    asked = turns % 2 == 1
    conversation = Conversation("talk", TALK.turns[:turns])
    ours = renderer.encode_prompt(conversation) if asked else renderer.encode(conversation)
    tokenizer.chat_template = renderer.chat_template  # as it is stored with the weights
    theirs = tokenizer.apply_chat_template(
        messages(conversation), add_generation_prompt=asked, return_dict=False
    )
    if merged and turns > 1:
        assert tokenizer.decode(ours.ids) == tokenizer.decode(theirs)
    else:
        assert tokenizer.convert_ids_to_tokens(ours.ids) == tokenizer.convert_ids_to_tokens(theirs)


@pytest.mark.parametrize("turns", range(1, 7))
@pytest.mark.parametrize(("name", "which"), WRITTEN, ids=["-".join(case) for case in WRITTEN])
def test_a_written_template(name: str, which: str, turns: int):
    tokenizer = TOKENIZERS[which]()
    image = tokenizer.convert_tokens_to_ids("<image>")
    check(tokenizer, Renderer(TEMPLATES[name], tokenizer, image, patches=1), turns, name in MERGED)


@pytest.mark.parametrize("turns", range(1, 7))
@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_tokenizers_own_template(name: str, turns: int):
    tokenizer = with_chat_template(name)
    image = tokenizer.convert_tokens_to_ids("<image>")
    check(
        tokenizer,
        Renderer(find_template("tokenizer", tokenizer), tokenizer, image, patches=1),
        turns,
        name in MERGED,
    )


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_stored_template_is_the_tokenizers_own_for_plain_text(name: str):
    """But for the date of the day, which stays that of the training."""
    theirs, ours = with_chat_template(name), with_chat_template(name)
    ours.chat_template = find_template("tokenizer", ours).source
    content = (lambda text: [{"type": "text", "text": text}]) if name == "listed" else (lambda text: text)
    talk = [
        {"role": role, "content": content(text)}
        for role, text in (("user", " Hi? "), ("assistant", "A dog.\n"), ("user", "Why?"))
    ]
    for turns in (1, 2, 3):
        written = [
            tokenizer.apply_chat_template(talk[:turns], add_generation_prompt=turns % 2 == 1, tokenize=False)
            for tokenizer in (theirs, ours)
        ]
        if name == "dated":
            written[0] = f"<|im_start|>system\nToday is 26 Jul 2024.{written[0].partition('.')[2]}"
        assert written[0] == written[1]


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_a_stored_template_is_read_again_as_the_same(name: str):
    tokenizer = with_chat_template(name)
    image = tokenizer.convert_tokens_to_ids("<image>")
    first = Renderer(find_template("tokenizer", tokenizer), tokenizer, image, patches=2)
    tokenizer.chat_template = first.chat_template
    again = Renderer(find_template("tokenizer", tokenizer), tokenizer, image, patches=2)
    assert again.encode(TALK) == first.encode(TALK)
    assert again.stop == first.stop
    assert again.chat_template == first.chat_template
