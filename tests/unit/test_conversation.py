"""Conversations and LLaVA's JSON: what is written is read back, what is malformed is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.conversation import (
    Conversation,
    Picture,
    Turn,
    ask,
    from_json,
    gpt,
    human,
    questions_and_answers,
    to_json,
)

DOG = Conversation(
    "7-conversation",
    (
        human(*ask("What is this?", "dog.jpg")),
        gpt("A dog."),
        human("What does it do?"),
        gpt("It runs."),
    ),
)
DOG_RECORD = {
    "id": "7-conversation",
    "image": "dog.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "What does it do?"},
        {"from": "gpt", "value": "It runs."},
    ],
}


def record(*values: str, **fields: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    turns = [{"from": speakers[n % 2], "value": value} for n, value in enumerate(values)]
    return {"id": "1", "conversations": turns, **fields}


def test_conversation_is_written_in_llavas_json():
    assert to_json(DOG) == DOG_RECORD


def test_llavas_json_is_read_as_the_conversation():
    assert from_json(DOG_RECORD) == DOG


def test_picture_may_stand_after_the_question():
    conversation = from_json(record("What is this?\n<image>", "A dog.", image="dog.jpg"))
    assert conversation.turns[0].content == ("What is this?\n", Picture("dog.jpg"))


def test_text_only_record_has_no_image():
    conversation = from_json(record("Hello.", "Hi."))
    assert conversation.pictures == []
    assert "image" not in to_json(conversation)


def test_several_pictures_are_read_in_the_order_of_their_places():
    source = record(
        "<image> and <image>\nWhich?", "Both.", "<image>?", "No.", image=["a.jpg", "b.jpg", "c.jpg"]
    )
    conversation = from_json(source)
    assert conversation.pictures == ["a.jpg", "b.jpg", "c.jpg"]
    assert to_json(conversation) == source


words = st.text(min_size=1, max_size=40).filter(lambda text: text.strip() and "<image>" not in text)
pairs = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@given(pairs, st.none() | st.sampled_from(["dog.jpg", "a b/ü.png"]))
def test_json_round_trip_changes_nothing(texts: list[tuple[str, str]], picture: str | None):
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(texts):
        turns += [human(*ask(question, None if number else picture)), gpt(answer)]
    conversation = Conversation("1", tuple(turns))
    assert from_json(to_json(conversation)) == conversation


def test_words_of_a_turn_leave_out_the_picture_and_its_line_break():
    assert [turn.text for turn in DOG.turns] == ["What is this?", "A dog.", "What does it do?", "It runs."]


def test_questions_and_answers_are_plain_pairs():
    assert questions_and_answers(DOG) == [("What is this?", "A dog."), ("What does it do?", "It runs.")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "expected an object, found list"),
        ("text", "expected an object, found str"),
        ({"id": "1"}, "`conversations` is missing or empty"),
        ({"conversations": []}, "`conversations` is missing or empty"),
        ({"conversations": "Hello."}, "`conversations` is missing or empty"),
        (record("Hello."), "the last turn has no answer"),
        (record("Hello.", "Hi.", "Bye."), "the last turn has no answer"),
        (record("<image>?", "A dog."), "conversations[0]: more `<image>` placeholders than images"),
        (record("A?", "B.", "<image>?", "C."), "conversations[2]: more `<image>` placeholders than images"),
        (record("<image> <image>", "Two.", image="a.jpg"), "more `<image>` placeholders than images"),
        (record("What?", "A dog.", image="dog.jpg"), "1 more image(s) than `<image>` placeholders"),
        (record("<image>", "A.", image=["a", "b", "c"]), "2 more image(s) than `<image>` placeholders"),
        (record("What?", "<image>", image="a"), "conversations[1]: an answer must not contain `<image>`"),
        (record("What?", " \n"), "conversations[1]: the answer is empty"),
        ({"conversations": [{"from": "gpt", "value": "Hi."}]}, "conversations[0]: expected `from`: 'human'"),
        ({"conversations": [{"from": "human", "value": 5}]}, "conversations[0]: expected `from`: 'human'"),
        ({"conversations": [{"from": "human"}]}, "conversations[0]: expected `from`: 'human'"),
        ({"conversations": ["Hello."]}, "conversations[0]: expected `from`: 'human'"),
        (
            {"conversations": [{"from": "human", "value": "A?"}, {"from": "human", "value": "B?"}]},
            "conversations[1]: expected `from`: 'gpt'",
        ),
    ],
)
def test_malformed_record_is_refused_with_the_place(source: Any, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_json(source)


@pytest.mark.parametrize("image", [5, [5], {"a": 1}])
def test_an_image_that_is_no_file_name_is_refused(image):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    with pytest.raises(ValueError, match="`image`: expected a file name"):
        from_json({"id": "1", "image": image, "conversations": turns})


def test_an_image_of_null_is_no_image():
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
    assert from_json({"id": "1", "image": None, "conversations": turns}).pictures == []


def test_text_that_spells_the_placeholder_is_never_written():
    with pytest.raises(ValueError, match="stands for a picture"):
        to_json(Conversation("1", (human("What is <image>?"), gpt("A tag."))))
