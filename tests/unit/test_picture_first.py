"""The pictures of a first question, moved before its words."""

import pytest

from vistune.conversation import Conversation, Picture, ask, gpt, human, picture_first

A, B = Picture("a.jpg"), Picture("b.jpg")


def talk(*content):
    return Conversation("1", (human(*content), gpt("A dog."), human("And this?\n", B), gpt("A cat.")))


@pytest.mark.parametrize(
    ("written", "moved"),
    [
        (("What?\n", A), (A, "\nWhat?")),
        (("What?\n", A, "\n", B), (A, "\n", B, "\nWhat?")),
    ],
)
def test_pictures_come_before_the_words_of_the_first_question_alone(written, moved):
    assert picture_first(talk(*written)) == talk(*moved)
    assert picture_first(talk(*moved)) == talk(*moved)


@pytest.mark.parametrize("content", [(A, "\nWhat?\n", B), ("Of this ", A, " what?")])
def test_pictures_whose_places_mean_something_stay(content):
    assert picture_first(talk(*content)) == talk(*content)


@pytest.mark.parametrize(
    "content", [(A, "\nWhat?"), (A, " What?"), (A, "\n", B, "\nWhat?"), (A,), ("What?",)]
)
def test_what_is_first_already_stays_as_it_is(content):
    assert picture_first(talk(*content)) == talk(*content)


@pytest.mark.parametrize("files", ["a.jpg", ["a.jpg", "b.jpg"]])
def test_either_order_of_a_question_becomes_the_one_with_the_picture_first(files):
    assert picture_first(talk(*ask("What?", files, picture_first=False))) == talk(*ask("What?", files))
