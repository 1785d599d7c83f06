"""The built-in engine on a tiny model: what is answered together, goes on, stops or leaves."""

import asyncio
import threading

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_checkpoint
from vistune.conversation import Conversation, ask, gpt, human
from vistune.serve.engine.built_in import BuiltIn, BuiltInOptions
from vistune.serve.engine.engine import BadRequestError, BusyError, ChatRequest, EngineError, Sampling
from vistune.serve.engine.worker import worker
from vistune.serve.engine.writing import Writer


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def request(words, image=None, most=8, history=(), **sampling):
    first = human(*ask(words, f"{image}.jpg" if image is not None else None))
    pictures = {f"{image}.jpg": picture(image)} if image is not None else {}
    return ChatRequest(Conversation("t", (first, *history)), pictures, Sampling(max_tokens=most, **sampling))


@pytest.fixture
def make(tokenizer):
    made = []

    def make(template="short", max_length=512, **options):
        checkpoint = tiny_checkpoint(tokenizer, template=template, max_length=max_length)
        made.append(BuiltIn("tiny", checkpoint, {}, BuiltInOptions(**options)))
        return made[-1]

    yield make
    for engine in made:
        asyncio.run(engine.close())


async def read(engine, asked):
    pieces = [piece async for piece in engine.answer(asked)]
    assert [piece.finish is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return "".join(piece.text for piece in pieces), pieces[-1]


def together(engine, *asked):
    async def run():
        return await asyncio.gather(*(read(engine, one) for one in asked))

    return asyncio.run(run())


ASKED = [request(f"what is {n}", n % 3 if n % 4 else None) for n in range(9)]


def test_what_is_asked_together_is_answered_as_if_alone(make):
    expected = [together(make(cache=0), one)[0] for one in ASKED]
    answered = together(make(rows=4), *ASKED)
    assert [text for text, _ in answered] == [text for text, _ in expected]
    assert len({text for text, _ in answered}) > 5
    assert all(last.usage.completion <= 8 for _, last in answered)


def test_a_second_turn_reads_only_what_is_new_and_says_the_same(make):
    engine, plain = make(), make(cache=0)
    ((first, before),) = together(engine, request("what is it", 1))
    history = (gpt(first), human("and why"))
    ((again, last),) = together(engine, request("what is it", 1, history=history))
    ((fresh, alone),) = together(plain, request("what is it", 1, history=history))
    assert again == fresh
    assert alone.usage.cached == 0 and last.usage.prompt == alone.usage.prompt
    assert last.usage.cached >= before.usage.prompt > 12
    (other,) = together(engine, request("something else", 1))
    assert 0 < other[1].usage.cached < last.usage.cached  # the picture alone


@pytest.mark.parametrize("template", ["plain", "v0", "llama_2", "chatml"])
def test_every_template_and_place_of_a_picture(make, template):
    engine, plain = make(template), make(template, cache=0)
    asked = [request("so", 1), request("so", 1), request("so", 2)]
    last = ChatRequest(
        Conversation("t", (human(*ask("so", "1.jpg", picture_first=False)),)),
        {"1.jpg": picture(1)},
        Sampling(max_tokens=6),
    )
    for one in (*asked, last, last):
        assert together(engine, one)[0][0] == together(plain, one)[0][0]


def test_a_seed_fixes_an_answer_whoever_else_is_there(make):
    engine = make()
    drawn = request("draw", 1, temperature=2.0, seed=5)
    ((alone, _),) = together(engine, drawn)
    crowd = together(engine, *ASKED, drawn, request("draw", 1, temperature=2.0, seed=6))
    assert crowd[-2][0] == alone != crowd[-1][0]


def test_an_answer_ends_before_a_stop_string(make):
    engine = make()
    ((whole, _),) = together(engine, request("what", 1, most=12))
    stop = whole[len(whole) // 2 :][:3]
    ((cut, last),) = together(engine, request("what", 1, most=12, stop=("never there", stop)))
    assert cut == whole[: whole.index(stop)].rstrip() and last.finish == "stop"
    assert engine.state()["running"] == 0


def test_a_reader_who_leaves_frees_its_row(make):
    engine = make()

    async def run():
        answer = engine.answer(request("go on", 1, most=400))
        await anext(answer)
        assert engine.state()["running"] == 1
        await answer.aclose()
        await read(engine, request("me too", 1))
        return engine.state()

    state = asyncio.run(run())
    assert (state["running"], state["waiting"], state["cancelled"]) == (0, 0, 1)


def test_too_long_and_too_many_are_refused(make):
    engine = make(max_length=64, rows=1, queue=1)
    with pytest.raises(BadRequestError, match="the model reads 64"):
        together(engine, request("why " * 100, 1))
    with pytest.raises(BadRequestError, match="shorter answer"):
        together(engine, request("why", 1, most=64))

    async def crowd():
        return await asyncio.gather(
            *(read(engine, request("why", 1, most=30)) for _ in range(4)), return_exceptions=True
        )

    assert sum(isinstance(done, BusyError) for done in asyncio.run(crowd())) == 2
    together(engine, request("why", 1))


def test_a_failure_is_told_and_the_engine_goes_on(make, monkeypatch):
    engine = make()
    monkeypatch.setattr(engine._batcher._decoder, "step", lambda: 1 / 0)
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        together(engine, request("why", 1))
    assert together(engine, request("why", 1))[0][1].finish


def test_a_stopped_engine_tells_who_waits(make):
    engine = make()

    async def run():
        answer = engine.answer(request("go on", 1, most=400))
        await anext(answer)
        await engine.close()
        with pytest.raises(EngineError, match="stopped"):
            async for _ in answer:
                pass

    asyncio.run(run())


class Letters:
    """A tokenizer whose ids are bytes."""

    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("stops", [(), ("END",), ("é", "\n\n")])
@pytest.mark.parametrize("text", ["  Ein Café,\n\n naïve. ", "END", "EN and ENE END after", "日本語  "])
def test_pieces_make_the_whole_and_nothing_is_taken_back(text, stops):
    ids, writer, pieces = list(text.encode()), Writer(Letters(), stops), []
    for end in range(1, len(ids) + 1):
        pieces.append(writer.write(ids[:end], last=end == len(ids)))
        if writer.stopped:
            break
    whole = text.lstrip()
    ends = [whole.index(stop) for stop in stops if stop in whole]
    assert "".join(pieces) == (whole[: min(ends)] if ends else whole).rstrip()
    assert writer.stopped == bool(ends) and "\ufffd" not in "".join(pieces)


def test_steps_read_and_write_in_turn(make, monkeypatch):
    """Whoever writes waits for one reading at most, and first words do not wait for second ones."""
    monkeypatch.setattr("vistune.serve.engine.batcher._READ_TOKENS", 1)  # one at a time
    engine, done = make(), []
    for name in ("join", "step"):
        method = getattr(engine._batcher._decoder, name)
        spy = lambda *rows, name=name, method=method: done.append(name) or method(*rows)  # noqa: E731
        monkeypatch.setattr(engine._batcher._decoder, name, spy)
    gate = threading.Event()
    worker.later(gate.wait)  # until all of them have come
    threading.Timer(0.5, gate.set).start()
    together(engine, *(request(f"what is {n}", most=4) for n in range(3)))
    assert done.count("join") == 3 and "join join" not in " ".join(done)
    assert done[:2] == ["join", "step"]


def test_models_that_are_busy_at_once_take_turns(make):
    engines = make(), make()
    alone = [together(engine, request("what is it")) for engine in engines]

    async def both():
        return await asyncio.gather(*(read(engine, request("what is it")) for engine in engines))

    told = asyncio.run(both())
    assert [text for text, _ in told] == [text for [(text, _)] in alone]
