"""The format of a teacher's reply: what is written can be read, what is malformed is named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.data.teachers.reply import ReplyError, format_pairs, parse_pairs, parse_prose

ONE_PAIR = "Question:\nWhat is the dog doing?\n===\nAnswer:\nIt runs after a ball."
TWO_PAIRS = f"{ONE_PAIR}\n===\nQuestion:\nHow many dogs?\n===\nAnswer:\nOne."

texts = (
    st.text(min_size=1, max_size=60)
    .map(str.strip)
    .filter(lambda t: t and not re.search(r"(?m)^===[ \t]*$", t))
)


def test_pairs_are_written_with_headings_and_a_separator_between_them_but_not_at_the_end():
    pairs = [("What is the dog doing?", "It runs after a ball."), ("How many dogs?", "One.")]
    assert format_pairs(pairs) == TWO_PAIRS


def test_two_pairs_are_read_in_order():
    assert parse_pairs(TWO_PAIRS) == [
        ("What is the dog doing?", "It runs after a ball."),
        ("How many dogs?", "One."),
    ]


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_pairs_that_are_written_are_read_back(pairs: list[tuple[str, str]]):
    assert parse_pairs(format_pairs(pairs)) == pairs


def test_answer_may_span_paragraphs():
    reply = "Question:\nWhy?\n===\nAnswer:\nFirst.\n\nSecond."
    assert parse_pairs(reply) == [("Why?", "First.\n\nSecond.")]


def test_three_equal_signs_inside_a_line_are_text():
    reply = "Question:\nWhat is written?\n===\nAnswer:\nIt says a === b."
    assert parse_pairs(reply) == [("What is written?", "It says a === b.")]


def test_space_around_blocks_and_after_separators_does_not_matter():
    reply = "\n Question:\n\nWhy? \n===  \n\nAnswer:\nSo.\n\n"
    assert parse_pairs(reply) == [("Why?", "So.")]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "block 1 does not begin with `Question:`"),
        ("I cannot see any picture.", "block 1 does not begin with `Question:`"),
        (f"Here you are.\n{ONE_PAIR}", "block 1 does not begin with `Question:`"),
        ("Question:\nWhy?\n===\nSo.", "block 2 does not begin with `Answer:`"),
        ("Question:\nWhy?\n===\nQuestion:\nHow?", "block 2 does not begin with `Answer:`"),
        ("Question:\n\n===\nAnswer:\nSo.", "block 1 is empty"),
        ("Question:\nWhy?\n===\nAnswer:\n  ", "block 2 is empty"),
        ("Question:\nWhy?", "the last question has no answer"),
        (f"{ONE_PAIR}\n===\nQuestion:\nHow?", "the last question has no answer"),
        (f"{ONE_PAIR}\n===\n", "block 3 does not begin with `Question:`"),
    ],
)
def test_malformed_pairs_are_refused_with_the_place(reply: str, message: str):
    with pytest.raises(ReplyError, match=re.escape(message)):
        parse_pairs(reply)


def test_prose_is_read_without_the_space_around_it():
    assert parse_prose("\n A dog.\n\nIt runs. \n") == "A dog.\n\nIt runs."


@pytest.mark.parametrize(
    ("reply", "message"),
    [("", "the reply is empty"), (" \n ", "the reply is empty"), (ONE_PAIR, "a line `===` was found")],
)
def test_malformed_prose_is_refused(reply: str, message: str):
    with pytest.raises(ReplyError, match=re.escape(message)):
        parse_prose(reply)


def test_a_text_that_holds_the_separator_is_never_written():
    with pytest.raises(ReplyError, match="separator"):
        format_pairs([("What?", "One\n===\nTwo")])


def test_line_ends_of_other_systems_are_read():
    assert parse_pairs("Question:\r\nWhat?\r\n===\r\nAnswer:\r\nA dog.\r\n") == [("What?", "A dog.")]
