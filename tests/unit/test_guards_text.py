"""Users' text: length, and halves of characters."""

import json

import pytest

from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.text import check_text

LIMITS = Limits(question_characters=5)


@pytest.mark.parametrize(
    "text", ["", "hello", "\N{GRINNING FACE}" * 5, "\0\n\t", json.loads(r'"\ud83d\ude00"')]
)
def test_text_within_the_limit_passes(text):
    check_text(text, LIMITS)


def test_longer_text_is_refused_and_not_repeated():
    with pytest.raises(BadRequestError, match="A message has 6 characters; 5 are allowed") as caught:
        check_text("secret", LIMITS)
    assert caught.value.param == "messages"
    assert "secret" not in str(caught.value)


def test_half_a_character_is_refused():
    with pytest.raises(BadRequestError, match="position 2"):
        check_text(json.loads(r'"ab\ud83d"'), LIMITS)
