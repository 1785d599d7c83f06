"""A chat: turns are kept, answers stream, and nothing that was read is computed again or read otherwise."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_checkpoint, tiny_llm
from vistune.conversation import Conversation, Picture, ask, gpt, human
from vistune.data.images import open_image
from vistune.errors import VistuneError
from vistune.model.decode import stream
from vistune.serve.engine.engine import Sampling
from vistune.serve.session import ChatSession

MOST = 12
SHORT = Sampling(max_tokens=MOST)


@pytest.fixture
def picture(tmp_path):
    return painted(tmp_path / "picture.png", 1)


def painted(path, seed, size=(40, 30)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def told(session, question):
    return "".join(session.ask(question))


def computed_afresh(checkpoint, turns, pictures):
    """The answer to turns that end with a question, by one pass over all of them and no cache of before."""
    prompt = checkpoint.renderer.encode_prompt(Conversation("q", tuple(turns)))
    squares = [torch.from_numpy(checkpoint.preprocess(open_image(path))) for path in pictures]
    pixels = torch.stack(squares) if squares else None
    ids = list(stream(checkpoint.model, prompt.ids, pixels, checkpoint.stop, MOST))
    return checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "qwen3"])
@pytest.mark.parametrize("preprocessing", [{"kind": "pad"}, {"shortest": 20}, {"kind": "stretch"}])
def test_answers_of_many_turns_are_those_of_fresh_computations(tokenizer, tmp_path, family, preprocessing):
    checkpoint = tiny_checkpoint(tokenizer)
    torch.manual_seed(6)
    model = checkpoint.model
    model.__init__(model.vision, model.connector, tiny_llm(len(tokenizer), family).eval(), model.image_token)
    checkpoint = dataclasses.replace(
        checkpoint, preprocess=dataclasses.replace(checkpoint.preprocess, **preprocessing)
    )
    a, b, c = (painted(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc"))
    session = ChatSession(checkpoint, SHORT)
    turns, seen, answers = [], [], []
    for question, new in [("What is it?", [a]), ("Where?", []), ("And these?", [b, c]), ("Why?", [])]:
        for path in new:
            session.show(path)
        seen += new
        turns.append(human(*ask(question, [str(path) for path in new])))
        answers.append(told(session, question))
        assert answers[-1] == computed_afresh(checkpoint, turns, seen)
        turns.append(gpt(answers[-1]))
    assert session.turns == tuple(turns) and len(set(answers)) > 1


def test_a_picture_is_encoded_once_whatever_is_asked(tokenizer, tmp_path, monkeypatch):
    checkpoint = tiny_checkpoint(tokenizer)
    encoded = []
    features = checkpoint.model.features
    monkeypatch.setattr(
        checkpoint.model, "features", lambda pixels: (encoded.append(len(pixels)), features(pixels))[1]
    )
    session = ChatSession(checkpoint, SHORT)
    session.show(painted(tmp_path / "a.png", 1))
    told(session, "What?")
    told(session, "Where?")
    assert encoded == [1]
    session.show(painted(tmp_path / "b.png", 2))
    told(session, "And this?")
    assert encoded == [1, 1]
    session.reset()
    told(session, "And this?")
    session.reset()
    told(session, "What?")
    assert encoded == [1, 1, 1]  # b is now the first picture: its places are others


def test_an_answer_that_is_stopped_stays_as_far_as_it_was_told(tokenizer, picture):
    checkpoint = tiny_checkpoint(tokenizer)
    session = ChatSession(checkpoint, SHORT)
    session.show(picture)
    answer = session.ask("What?")
    seen = ""
    while len(seen) < 3:
        seen += next(answer)
    answer.close()
    asked = [human(*ask("What?", str(picture))), gpt(seen)]
    assert session.turns == tuple(asked) and session.waiting == []
    again = [*asked, human("Where?")]
    assert told(session, "Where?") == computed_afresh(checkpoint, again, [picture])


def test_stopped_before_a_word_nothing_is_kept_and_the_picture_waits(tokenizer, picture):
    session = ChatSession(tiny_checkpoint(tokenizer), SHORT)
    session.show(picture)
    answer = session.ask("What?")
    session._batcher.step = lambda: None  # nothing comes
    assert next(answer) == ""
    answer.close()
    assert session.turns == () and session.waiting == [picture]
    del session._batcher.step
    assert told(session, "What?") and len(session.turns) == 2


def test_what_breaks_amid_an_answer_leaves_a_session_that_works(tokenizer, picture, monkeypatch):
    checkpoint = tiny_checkpoint(tokenizer)
    session = ChatSession(checkpoint, SHORT)
    session.show(picture)

    def no_memory(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(checkpoint.model, "features", no_memory)
    with pytest.raises(VistuneError, match=r"Out of memory.*/reset"):
        told(session, "What?")
    monkeypatch.undo()
    expected = computed_afresh(checkpoint, [human(*ask("What?", str(picture)))], [picture])
    assert told(session, "What?") == expected


def test_reset_forgets_turns_and_keeps_the_pictures_until_new_ones_come(tokenizer, tmp_path):
    a, b, c = (painted(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc"))
    session = ChatSession(tiny_checkpoint(tokenizer), SHORT)
    session.show(a)
    session.show(b)
    first = told(session, "What?")
    told(session, "Where?")
    session.reset()
    assert session.turns == () and session.waiting == [a, b]
    session.reset()
    assert told(session, "What?") == first
    session.reset()
    session.show(c)
    assert session.waiting == [c]
    session.show(a)
    session.reset()
    assert session.waiting == [c, a]  # not yet asked about
    session.reset(pictures=False)
    assert session.waiting == [] and told(session, "What?") != first


def test_the_picture_changes_the_answer(tokenizer, picture):
    checkpoint = tiny_checkpoint(tokenizer)
    seeing = ChatSession(checkpoint, SHORT)
    seeing.show(picture)
    assert told(seeing, "What?") != told(ChatSession(checkpoint, SHORT), "What?")


def test_a_seed_fixes_what_is_drawn(tokenizer):
    checkpoint = tiny_checkpoint(tokenizer)

    def drawn(seed):
        session = ChatSession(checkpoint, Sampling(temperature=1.5, seed=seed, max_tokens=MOST))
        return [told(session, "What?"), told(session, "Where?")]

    assert drawn(1) == drawn(1) and len({tuple(drawn(seed)) for seed in range(4)}) > 2


@pytest.mark.parametrize("limit", [5, None])
def test_an_answer_is_as_long_as_was_asked_for_and_the_model_allows(tokenizer, limit):
    checkpoint = tiny_checkpoint(tokenizer, max_length=60)
    session = ChatSession(checkpoint, Sampling(max_tokens=limit))
    question = " dogs" * 12
    ids = checkpoint.renderer.encode_prompt(Conversation("q", (human(question),))).ids
    most = limit or 60 - len(ids)
    told(session, question)
    assert session._batcher.counts.written == most
    assert len(list(stream(checkpoint.model, ids, None, checkpoint.stop, 60))) > most  # no STOP came


def test_a_conversation_that_does_not_fit_says_so_and_can_go_on(tokenizer, picture):
    checkpoint = tiny_checkpoint(tokenizer, max_length=60)
    session = ChatSession(checkpoint, SHORT)
    session.show(picture)
    told(session, "What?")
    before = session.turns
    with pytest.raises(VistuneError, match=r"takes \d+ tokens.*the model reads 60.*/reset"):
        told(session, "What is in the picture, and where is it, and why? " * 3)
    assert session.turns == before
    session.reset()
    assert told(session, "What?") == before[1].text


def test_one_picture_too_many_is_refused_when_it_is_shown(tokenizer, picture):
    session = ChatSession(tiny_checkpoint(tokenizer, max_length=12), SHORT)  # four tokens each
    session.show(picture)
    session.show(picture)
    with pytest.raises(
        VistuneError, match=r"picture.png: one picture too many. Each takes 4 tokens of the 12"
    ):
        session.show(picture)
    assert len(session.waiting) == 2


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "picture is missing"), (b"no picture", "not a picture")]
)
def test_a_picture_that_cannot_be_read_is_named_and_the_others_stay(
    tokenizer, tmp_path, picture, content, reason
):
    path = tmp_path / "x.jpg"
    if content:
        path.write_bytes(content)
    session = ChatSession(tiny_checkpoint(tokenizer))
    session.show(picture)
    with pytest.raises(VistuneError, match=f"x.jpg: {reason}"):
        session.show(path)
    assert session.waiting == [picture]


@pytest.mark.parametrize(("question", "reason"), [(" \n", "empty"), ("a\udc80", "not valid Unicode")])
def test_what_is_no_question_is_refused(tokenizer, question, reason):
    session = ChatSession(tiny_checkpoint(tokenizer))
    with pytest.raises(VistuneError, match=reason):
        told(session, question)
    assert session.turns == ()


def test_words_of_a_user_are_no_picture(tokenizer, picture):
    checkpoint = tiny_checkpoint(tokenizer)
    session = ChatSession(checkpoint, SHORT)
    session.show(picture)
    told(session, "What is an <image>?")
    parts = session.turns[0].content
    assert parts == (Picture(str(picture)), "\nWhat is an <image>?")
