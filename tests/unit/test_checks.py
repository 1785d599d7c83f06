"""Checks on what a teacher wrote: each finds its fault, and none finds one where there is none."""

from __future__ import annotations

import pytest

from vistune.data.generation.checks import find_sample_flaw

CONTEXT = "A woman in a red coat walks her dog.\n\nperson: [0.1, 0.2, 0.5, 0.9]\ndog: [0.5, 0.6, 0.7, 0.9]"
GOOD = [
    ("What is the woman doing?", "She is walking her dog."),
    ("Where is the dog?", "The dog is on her right."),
]


def flaw_of(question: str = "What is there?", answer: str = "A dog.", context: str = CONTEXT) -> str | None:
    found = find_sample_flaw([(question, answer)], context)
    return found.reason if found else None


def test_good_pairs_have_no_flaw():
    assert find_sample_flaw(GOOD, CONTEXT) is None


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t assist with that request.",
        "Sorry, I cannot provide that.",
        "As an AI, I have no eyes.",
        "As an AI language model, I cannot see.",
        "As a large language model I have no access to it.",
        "I apologize, but the photo is not there.",
        "I am unable to view the photo.",
        "i can not see the photo",
    ],
)
def test_refusal_is_found(answer: str):
    assert flaw_of(answer=answer) == "refusal"


@pytest.mark.parametrize(
    "answer",
    [
        "The plane serves as an airliner.",
        "The rope serves as an aid to the climber.",
        "The man says that he is sorry.",
        "The dog is unable to reach the ball.",
        "They can see the sea from here.",
        "A dog. " * 30 + "I'm sorry to say that it is wet.",
    ],
)
def test_words_that_only_look_like_a_refusal_pass(answer: str):
    assert flaw_of(answer=answer) is None


@pytest.mark.parametrize(
    "pair",
    [
        ("What is there?", "The captions mention a dog."),
        ("What is there?", "A dog, as the bounding box shows."),
        ("What does the caption say?", "A dog walks."),
        ("What is there?", "A dog is at [0.5, 0.6, 0.7, 0.9]."),
    ],
)
def test_text_that_speaks_of_captions_or_boxes_is_found(pair: tuple[str, str]):
    assert flaw_of(*pair) == "speaks of its source"


@pytest.mark.parametrize(
    ("question", "answer"), [("", "A dog."), ("What?", ""), (" ", "A dog."), ("What?", "\n")]
)
def test_empty_text_is_found(question: str, answer: str):
    assert flaw_of(question, answer) == "empty text"


def test_place_of_a_picture_in_a_text_is_found():
    assert flaw_of(answer="See <image>.") == flaw_of(question="What is in <image>?") == "contains <image>"


def test_character_that_stands_for_a_broken_one_is_found():
    assert flaw_of(answer="A dog \ufffd.") == "broken characters"


def test_answer_of_too_many_words_is_found_and_one_of_just_as_many_is_not():
    assert find_sample_flaw([("What?", "dog " * 10)], CONTEXT, longest=10) is None
    found = find_sample_flaw([("What?", "dog " * 11)], CONTEXT, longest=10)
    assert found is not None and (found.reason, found.detail) == ("answer too long", "11 words, at most 10")
    assert flaw_of(answer="dog " * 400) is None and flaw_of(answer="dog " * 401) == "answer too long"


@pytest.mark.parametrize("again", ["Where is the dog?", "where is  the dog", "Where is the dog?!"])
def test_question_asked_twice_is_found_whatever_its_signs(again: str):
    found = find_sample_flaw([*GOOD, (again, "There.")], CONTEXT)
    assert found is not None and (found.reason, found.detail) == ("question asked twice", again)


@pytest.mark.parametrize(
    ("question", "context"),
    [
        ("What color is the dog?", "A dog runs."),
        ("What colour does the car have?", "A car."),
        ("How old is the woman?", "A woman."),
        ("What brand is the laptop?", "A laptop on a desk."),
        ("What does the sign on the wall say?", "A sign on a wall."),
        ("What time is it?", "A clock tower."),
        ("What is the man's name?", "A man named by nobody."),
        ("How much does the cake cost?", "A cake."),
    ],
)
def test_question_that_no_annotation_answers_is_found(question: str, context: str):
    assert flaw_of(question, context=context) == "question that the annotations cannot answer"


@pytest.mark.parametrize(
    ("question", "context"),
    [
        ("What color is the dog?", "A Brown dog runs."),
        ("How old is the woman?", "An elderly woman."),
        ("What does the sign say?", "A sign that reads STOP."),
        ("What time is it?", "A clock shows ten o'clock."),
        ("How many dogs are there?", "Dogs."),
        ("What is the man doing?", "A man runs."),
    ],
)
def test_question_that_the_annotations_answer_passes(question: str, context: str):
    assert flaw_of(question, context=context) is None


def test_flaw_of_any_pair_counts_and_the_first_is_told():
    pairs = [*GOOD, ("What?", ""), ("Where is it?", "I'm sorry, I can't see.")]
    found = find_sample_flaw(pairs, CONTEXT)
    assert found is not None and found.reason == "empty text"
