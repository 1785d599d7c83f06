"""A chat: turns are kept, answers stream, and what was asked before matters."""

import pytest
from PIL import Image

from tests.tiny import tiny_checkpoint
from vistune.conversation import Conversation, ask, gpt, human
from vistune.errors import VistuneError
from vistune.serve import session as session_module
from vistune.serve.session import ChatSession


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), "teal").save(path)
    return path


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(session_module, "MAX_NEW_TOKENS", 12)


def test_streamed_pieces_make_the_answer_and_later_turns_read_it(tokenizer, picture):
    checkpoint = tiny_checkpoint(tokenizer)
    session = ChatSession(checkpoint, picture)
    first = "".join(session.ask("What is in the picture?"))
    second = "".join(session.ask("Where?"))
    talk = Conversation("by hand", (human(*ask("What is in the picture?", "p")), gpt(first), human("Where?")))
    from_scratch = ChatSession(checkpoint, picture)
    from_scratch._turns = list(talk.turns[:2])
    assert "".join(from_scratch.ask("Where?")) == second
    alone = "".join(ChatSession(checkpoint, picture).ask("Where?"))
    assert first and second != alone


def test_reset_forgets_turns_and_keeps_the_picture(tokenizer, picture):
    session = ChatSession(tiny_checkpoint(tokenizer), picture)
    first = "".join(session.ask("What?"))
    "".join(session.ask("Where?"))
    session.reset()
    assert "".join(session.ask("What?")) == first


def test_the_picture_changes_the_answer(tokenizer, picture):
    checkpoint = tiny_checkpoint(tokenizer)
    seeing = "".join(ChatSession(checkpoint, picture).ask("What?"))
    blind = "".join(ChatSession(checkpoint, None).ask("What?"))
    assert seeing != blind


def test_an_answer_that_is_cut_off_is_not_kept(tokenizer, picture):
    session = ChatSession(tiny_checkpoint(tokenizer), picture)
    stream = session.ask("What?")
    next(stream)
    stream.close()
    assert session._turns == []


def test_a_conversation_that_does_not_fit_says_so(tokenizer, picture):
    session = ChatSession(tiny_checkpoint(tokenizer, max_length=20), picture)
    with pytest.raises(VistuneError, match=r"takes \d+ tokens and the model reads 20.*reset"):
        list(session.ask("What is in the picture, and where is it, and why?"))


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "picture is missing"), (b"no picture", "not a picture")]
)
def test_a_picture_that_cannot_be_read_is_named(tokenizer, tmp_path, content, reason):
    path = tmp_path / "x.jpg"
    if content:
        path.write_bytes(content)
    with pytest.raises(VistuneError, match=f"x.jpg: {reason}"):
        ChatSession(tiny_checkpoint(tokenizer), path)
