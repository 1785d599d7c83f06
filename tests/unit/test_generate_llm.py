"""Generation through an LLM: bad replies are asked for again, choices are seeded, a stop loses nothing."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.stub_llm import written

from vistune.conversation import from_json, questions_and_answers
from vistune.data.generation import generate as generate_module
from vistune.data.generation.generate import Generated, generate, read_provenance
from vistune.data.generation.plan import GenerationSettings
from vistune.data.records import Record, read_records
from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.teachers.prompted import DEFAULT_PARAMETERS, PromptedTeacher
from vistune.data.teachers.teacher import SAMPLE_TYPES
from vistune.errors import VistuneError
from vistune.llm.budget import BudgetReachedError
from vistune.llm.client import RequestFailedError
from vistune.llm.request import ChatReply, ChatRequest, Usage
from vistune.prompts import load_prompt, question_list

NAMES = ("ant", "bee", "cow", "dog", "emu", "fox")
IMAGES = [
    AnnotatedImage(str(number), (f"{name}.jpg",), (f"The {name} runs.",), (Box(name, (0.1, 0.2, 0.5, 0.75)),))
    for number, name in enumerate(NAMES)
]
PROMPTS = {kind: load_prompt(kind) for kind in SAMPLE_TYPES}
ZOO = Annotations(IMAGES, NAMES, [])
PAIR = "Question:\nWhat runs?\n===\nAnswer:\nIt does."
COLOR = "Question:\nWhat color is it?\n===\nAnswer:\nIt is red."

Write = Callable[[ChatRequest], "str | ChatReply | Exception | None"]


class Pen:
    """An LLM in this process that charges for its replies and keeps those that were paid for.

    Args:
        write: what it replies where that is not the usual; None: the usual.
        paid: replies of runs before.
        most: replies that it gives away; then the money is at its end.
        seed: of how long it takes for each.
    """

    def __init__(
        self, write: Write = lambda _: None, paid: dict | None = None, most: int = 1000, seed: int = 0
    ) -> None:
        self._write, self.paid, self._most = write, {} if paid is None else paid, most
        self._random = random.Random(seed)
        self.asked: list[ChatRequest] = []

    async def ask(self, request: ChatRequest) -> ChatReply:
        if request.key in self.paid:
            return self.paid[request.key]
        if len(self.asked) >= self._most:
            raise BudgetReachedError("the money is at its end")
        self.asked.append(request)
        for _ in range(self._random.randrange(5)):
            await asyncio.sleep(0)
        found = self._write(request)
        if isinstance(found, Exception):
            raise found
        if not isinstance(found, ChatReply):
            messages = [{"role": role, "content": text} for role, text in request.messages]
            found = ChatReply(written(messages) if found is None else found, False, False, Usage(1, 1))
        return self.paid.setdefault(request.key, found)

    async def close(self) -> None:
        pass


def kind_of(request: ChatRequest) -> str:
    return next(kind for kind in SAMPLE_TYPES if PROMPTS[kind].system == request.messages[0][1])


def is_about(request: ChatRequest, kind: str, name: str) -> bool:
    return kind_of(request) == kind and request.messages[-1][1].startswith(f"The {name} runs.")


def spoil(kind: str, name: str, *replies: str | ChatReply | Exception) -> Write:
    """The first replies about one sample; after them, the usual."""
    left = list(replies)

    def write(request: ChatRequest) -> Any:
        return left.pop(0) if left and is_about(request, kind, name) else None

    return write


def run(
    out: Path,
    pen: Pen,
    annotations: Annotations = ZOO,
    boxes: bool = False,
    parameters: dict[str, Any] = DEFAULT_PARAMETERS,
    **settings: Any,
) -> Generated:
    chosen = GenerationSettings(**settings)
    teacher = PromptedTeacher(pen, "stub", parameters, 4, None, chosen.types, boxes)
    return generate(annotations, teacher, out, chosen)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(out: Path, kind: str) -> list[str]:
    return [record["id"] for record in json.loads((out / f"{kind}.json").read_text(encoding="utf-8"))]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


# What is asked


def test_each_sample_is_one_request_with_prompt_context_parameters_and_a_seed_of_its_own(tmp_path: Path):
    pen = Pen()
    result = run(tmp_path / "out", pen)
    assert result.counts == {"conversation": 6, "detail": 6, "reasoning": 6, "alignment": 6}
    assert sorted(kind_of(request) for request in pen.asked) == sorted(list(SAMPLE_TYPES) * 6)
    for request in pen.asked:
        assert request.messages[:-1] == PROMPTS[kind_of(request)].messages("")[:-1]
        assert {key: request.parameters[key] for key in DEFAULT_PARAMETERS} == DEFAULT_PARAMETERS
    assert len({request.key for request in pen.asked}) == 18
    assert len({request.parameters["seed"] for request in pen.asked}) == 6


@pytest.mark.parametrize("boxes", [False, True])
def test_conversations_are_written_without_boxes_unless_they_are_asked_for(tmp_path: Path, boxes: bool):
    pen = Pen()
    run(tmp_path / "out", pen, boxes=boxes)
    shown = {(kind_of(request), "ant: [0.1" in request.messages[-1][1]) for request in pen.asked
             if request.messages[-1][1].startswith("The ant")}  # fmt: skip
    assert shown == {("conversation", boxes), ("detail", True), ("reasoning", True)}


def test_reasoning_sees_what_was_written_for_the_same_image_where_it_shall(tmp_path: Path):
    pen = Pen()
    run(tmp_path / "out", pen, reasoning_sees_dialogue=True)
    made = {
        name: {record["image"]: questions_and_answers(from_json(record)) for record in records}
        for name in ("conversation", "detail")
        for records in [json.loads((tmp_path / "out" / f"{name}.json").read_text())]
    }
    for request in pen.asked:
        context = request.messages[-1][1]
        others = [n for n in NAMES if f"The {n} runs." not in context]
        assert len(others) == 5
        if kind_of(request) != "reasoning":
            assert "\n\nQuestion:" not in context
            continue
        (name,) = set(NAMES) - set(others)
        pairs, ((_, description),) = made["conversation"][f"{name}.jpg"], made["detail"][f"{name}.jpg"]
        assert context.endswith(f"\n\n{description}")
        for question, answer in pairs:
            assert f"Question:\n{question}\n===\nAnswer:\n{answer}" in context
    pen = Pen()
    run(tmp_path / "plain", pen)
    assert all("===" not in request.messages[-1][1] for request in pen.asked)


def test_reasoning_makes_do_with_what_there_is(tmp_path: Path):
    pen = Pen(spoil("conversation", "cow", "", "", ""))
    result = run(tmp_path / "out", pen, reasoning_sees_dialogue=True)
    assert result.counts["reasoning"] == 6
    (context,) = [r.messages[-1][1] for r in pen.asked if is_about(r, "reasoning", "cow")]
    assert "Question:" not in context and "A quiet place" in context


# What is asked again, and what is given up


def test_bad_reply_is_asked_for_again_with_another_seed_and_the_good_one_is_taken(tmp_path: Path):
    pen = Pen(spoil("reasoning", "cow", "Hm.", PAIR))
    result = run(tmp_path / "out", pen)
    assert result.counts["reasoning"] == 6 and result.quarantined == {}
    first, second = [request for request in pen.asked if is_about(request, "reasoning", "cow")]
    assert first.messages == second.messages
    assert first.parameters["seed"] != second.parameters["seed"]
    (origin,) = [row for row in rows(tmp_path / "out" / "provenance.jsonl") if row["id"] == "2-reasoning"]
    assert (origin["attempt"], origin["request"]) == (1, second.key)
    (record,) = [
        r for r in json.loads((tmp_path / "out" / "reasoning.json").read_text()) if r["id"] == "2-reasoning"
    ]
    assert record["conversations"][1]["value"] == "It does."


def test_without_a_seed_another_attempt_still_is_another_request(tmp_path: Path):
    pen = Pen(spoil("reasoning", "cow", "Hm.", PAIR))
    result = run(tmp_path / "out", pen, parameters={**DEFAULT_PARAMETERS, "seed": None})
    assert result.counts["reasoning"] == 6
    assert all(request.parameters == DEFAULT_PARAMETERS for request in pen.asked)
    first, second = [request for request in pen.asked if is_about(request, "reasoning", "cow")]
    assert first.body() == second.body() and first.key != second.key


def test_a_folder_of_other_annotations_is_refused(tmp_path: Path):
    run(tmp_path / "out", Pen())
    fewer = Annotations(IMAGES[:3], NAMES, [])
    with pytest.raises(VistuneError, match="holds a run with another annotations"):
        run(tmp_path / "out", Pen(), fewer)


def reply(text: str, cut: bool = False, refused: bool = False) -> ChatReply:
    return ChatReply(text, cut, refused, Usage(1, 1))


@pytest.mark.parametrize(
    ("kind", "bad", "reason"),
    [
        ("conversation", "A chat.", "reply does not follow the format"),
        ("conversation", PAIR + "\n===\nQuestion:\nAnd?", "reply does not follow the format"),
        ("conversation", f"{PAIR}\n===\n{PAIR}", "question asked twice"),
        ("conversation", PAIR.replace("It does.", "The caption says so."), "speaks of its source"),
        ("conversation", COLOR, "question that the annotations cannot answer"),
        ("conversation", "I\u2019m sorry, I can\u2019t help with that.", "refusal"),
        ("conversation", " \n", "empty reply"),
        ("conversation", PAIR.replace("It does.", "It does, <image>."), "contains <image>"),
        ("conversation", reply(PAIR, cut=True), "cut off at the token limit"),
        ("conversation", reply("", refused=True), "refused"),
        ("detail", "", "empty reply"),
        ("detail", PAIR, "reply does not follow the format"),
        ("detail", "I'm sorry, I cannot see the photo.", "refusal"),
        ("detail", "As the bounding boxes show, it runs.", "speaks of its source"),
        ("detail", "word " * 401, "answer too long"),
        ("reasoning", f"{PAIR}\n===\n{PAIR.replace('runs', 'walks')}", "reply does not follow the format"),
    ],
)  # fmt: skip
def test_sample_that_stays_bad_is_quarantined_with_its_reason_and_raw_text(tmp_path: Path, kind, bad, reason):
    pen = Pen(spoil(kind, "cow", bad, bad, bad, bad))
    result = run(tmp_path / "out", pen, attempts=3)
    assert result.quarantined == {reason: 1} and result.counts[kind] == 5
    assert sum(is_about(request, kind, "cow") for request in pen.asked) == 3
    (row,) = rows(tmp_path / "out" / "quarantine.jsonl")
    assert (row["id"], row["reason"], row["attempts"]) == (f"2-{kind}", reason, 3)
    assert row["reply"] == (bad if isinstance(bad, str) else bad.text)
    assert f"2-{kind}" not in ids(tmp_path / "out", kind)


@pytest.mark.parametrize("attempts", [1, 2])
def test_no_sample_is_asked_for_more_often_than_allowed(tmp_path: Path, attempts: int):
    pen = Pen(spoil("detail", "cow", *[""] * 9))
    run(tmp_path / "out", pen, attempts=attempts)
    assert sum(is_about(request, "detail", "cow") for request in pen.asked) == attempts


def test_request_without_a_reply_is_quarantined_and_asked_again_by_the_next_run(tmp_path: Path):
    pen = Pen(spoil("detail", "cow", RequestFailedError("8 attempts failed; the last: HTTP 500")))
    result = run(tmp_path / "out", pen)
    assert result.quarantined == {"no reply": 1} and result.stopped is None
    (row,) = rows(tmp_path / "out" / "quarantine.jsonl")
    assert "HTTP 500" in row["detail"] and row["attempts"] == 1
    again = Pen(paid=pen.paid)
    run(tmp_path / "out", again)
    assert [(kind_of(r), r.messages[-1][1][:7]) for r in again.asked] == [("detail", "The cow")]
    run(tmp_path / "clean", Pen())
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_run_that_makes_nothing_leaves_the_data_of_an_earlier_one_and_can_be_gone_on_with(tmp_path: Path):
    run(tmp_path / "out", Pen())
    before = contents(tmp_path / "out")
    with pytest.raises(
        VistuneError,
        match=r"no sample could be made of 18 \(18 x no reply\); .* 0-conversation: no reply: 'down",
    ):
        run(tmp_path / "out", Pen(lambda _: RequestFailedError("down")))
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 18
    with pytest.raises(BudgetReachedError):
        run(tmp_path / "out", Pen(most=0))
    assert {**contents(tmp_path / "out"), "quarantine.jsonl": b""} == before
    run(tmp_path / "out", Pen())
    assert contents(tmp_path / "out") == before


# Mixes


def test_where_a_sample_of_a_mix_fails_the_next_image_takes_its_place(tmp_path: Path):
    run(tmp_path / "clean", Pen(), types=("detail",), mix={"detail": 3})
    first, second, third = (number.split("-")[0] for number in ids(tmp_path / "clean", "detail"))
    bad = {NAMES[int(first)], NAMES[int(third)]}

    def write(request: ChatRequest) -> str | None:
        return "" if any(is_about(request, "detail", name) for name in bad) else None

    pen = Pen(write)
    result = run(tmp_path / "out", pen, types=("detail",), mix={"detail": 3}, attempts=2)
    assert result.counts["detail"] == 3 and result.quarantined == {"empty reply": 2}
    kept = [number.split("-")[0] for number in ids(tmp_path / "out", "detail")]
    assert kept[0] == second and not {first, third} & set(kept)
    assert len(pen.asked) == 2 * 2 + 3


def test_mix_that_cannot_be_filled_gives_what_there_is(tmp_path: Path):
    pen = Pen(spoil("detail", "cow", "", "", ""))
    assert run(tmp_path / "out", pen, types=("detail",), mix={"detail": 6}).counts["detail"] == 5


# Choices


def test_same_seed_gives_the_same_bytes_whatever_the_order_of_the_replies(tmp_path: Path):
    orders = []
    for seed in range(3):
        pen = Pen(spoil("detail", "cow", "", "", ""), seed=seed)
        run(tmp_path / str(seed), pen, reasoning_sees_dialogue=True, mix={"detail": 4, "reasoning": 6})
        orders.append([key for key in pen.paid])
    assert orders[0] != orders[1]
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")


def test_another_seed_asks_for_other_replies_and_makes_other_choices(tmp_path: Path):
    pens = [Pen(), Pen()]
    for seed, pen in enumerate(pens):
        run(tmp_path / str(seed), pen, seed=seed)
    assert not {r.key for r in pens[0].asked} & {r.key for r in pens[1].asked}
    assert contents(tmp_path / "0")["detail.json"] != contents(tmp_path / "1")["detail.json"]


def many(count: int) -> Annotations:
    images = [AnnotatedImage(str(n), (f"{n}.jpg",), (f"The {n} runs.",), ()) for n in range(count)]
    return Annotations(images, (), [])


def test_picture_stands_before_or_after_the_first_question_at_random_and_that_is_recorded(tmp_path: Path):
    run(tmp_path / "out", Pen(), many(40), types=("detail",))
    records = json.loads((tmp_path / "out" / "detail.json").read_text())
    places = {row["id"]: row["picture"] for row in rows(tmp_path / "out" / "provenance.jsonl")}
    for record in records:
        asked = record["conversations"][0]["value"]
        first = asked.startswith("<image>\n")
        assert first or asked.endswith("\n<image>")
        assert places[record["id"]] == ("first" if first else "last")
    assert 8 <= sum(place == "first" for place in places.values()) <= 32
    questions = {r["conversations"][0]["value"].replace("<image>", "").strip() for r in records}
    assert questions <= set(question_list("detail")) and len(questions) > 8


@pytest.mark.parametrize("place", ["first", "last"])
def test_picture_stands_where_it_is_told_to(tmp_path: Path, place: str):
    run(tmp_path / "out", Pen(), picture=place)
    for kind in SAMPLE_TYPES:
        for record in json.loads((tmp_path / "out" / f"{kind}.json").read_text()):
            asked = record["conversations"][0]["value"]
            assert asked.startswith("<image>\n") if place == "first" else asked.endswith("\n<image>")


# What is written


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
def test_each_format_holds_the_same_records(tmp_path: Path, file_format: str):
    pair = AnnotatedImage("pair", ("a.jpg", "b.jpg"), ("Two dogs.",), ())
    story = AnnotatedImage("story", (), ("A story.",), ())
    mixed = Annotations([*IMAGES, pair, story], NAMES, [])
    run(tmp_path / "json", Pen(), mixed)
    run(tmp_path / "out", Pen(), mixed, file_format=file_format)
    for name in (*SAMPLE_TYPES, "alignment"):
        found = list(read_records(tmp_path / "out" / f"{name}.{file_format}"))
        assert all(isinstance(record, Record) for record in found)
        kept = [from_json(record.value) for record in found if isinstance(record, Record)]
        whole = json.loads((tmp_path / "json" / f"{name}.json").read_text())
        assert kept == [from_json(record) for record in whole] and len(kept) == (
            6 if name == "alignment" else 8
        )


def test_text_alone_has_no_image_and_several_images_have_a_place_each(tmp_path: Path):
    pair = AnnotatedImage("pair", ("a.jpg", "b.jpg"), ("Two dogs.",), (Box("dog", (0, 0, 1, 1), False, 1),))
    story = AnnotatedImage("story", (), ("A story.",), ())
    pen = Pen()
    run(tmp_path / "out", pen, Annotations([pair, story], (), []), types=("reasoning",), picture="first")
    two, none = json.loads((tmp_path / "out" / "reasoning.json").read_text())
    assert two["image"] == ["a.jpg", "b.jpg"] and "image" not in none
    assert two["conversations"][0]["value"].startswith("<image>\n<image>\n")
    assert "<image>" not in json.dumps(none)
    assert {r.messages[-1][1] for r in pen.asked} == {"Two dogs.\n\npicture 2, dog: [0, 0, 1, 1]", "A story."}
    assert json.loads((tmp_path / "out" / "alignment.json").read_text()) == []
    origins = {row["id"]: row for row in rows(tmp_path / "out" / "provenance.jsonl")}
    assert origins["pair-reasoning"]["picture"] == "first" and "picture" not in origins["story-reasoning"]


def test_provenance_tells_prompt_and_request_of_each_sample_and_settings_of_all(tmp_path: Path):
    pen = Pen()
    run(tmp_path / "out", pen, seed=5)
    asked = {request.key: kind_of(request) for request in pen.asked}
    origins = rows(tmp_path / "out" / "provenance.jsonl")
    assert [row["id"] for row in origins] == [f"{n}-{kind}" for kind in SAMPLE_TYPES for n in range(6)]
    for row in origins:
        assert (row["teacher"], row["attempt"], asked[row["request"]]) == ("stub", 0, row["type"])
        assert row["prompt"] == PROMPTS[row["type"]].digest
    whole = read_provenance(tmp_path / "out")
    assert (whole["model"], whole["seed"], whole["complete"]) == ("stub", 5, True)
    assert whole["parameters"] == DEFAULT_PARAMETERS and set(whole["prompts"]) == set(SAMPLE_TYPES)
    assert whole["boxes_for"] == ["detail", "reasoning"]
    for name, digest in whole["question_lists"].items():
        text = "".join(f"{line}\n" for line in question_list(name))
        assert digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"boxes": True}, {"attempts": 2}, {"mix": {"detail": 2}}, {"picture": "first"},
                {"file_format": "jsonl"}, {"types": ("detail",)}, {"reasoning_sees_dialogue": True}]
)  # fmt: skip
def test_folder_of_a_run_with_other_settings_is_refused(tmp_path: Path, changed: dict[str, Any]):
    run(tmp_path / "out", Pen())
    before = contents(tmp_path / "out")
    pen = Pen()
    with pytest.raises(VistuneError, match="holds a run with another"):
        run(tmp_path / "out", pen, **changed)
    assert contents(tmp_path / "out") == before and pen.asked == []


def test_full_disk_is_told_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, records: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generate_module, "write_records", full)
    with pytest.raises(VistuneError, match=r"out: cannot be written \(No space left on device\)"):
        run(tmp_path / "out", Pen())


def test_what_is_told_of_nonsense_cannot_drive_a_terminal(tmp_path: Path):
    with pytest.raises(VistuneError) as told:
        run(tmp_path / "out", Pen(lambda *_: "\x1b[2J\x07" + "x\n" * 500))
    assert str(told.value).isprintable() and len(str(told.value)) < 600


# Stopping and going on


@pytest.mark.parametrize("most", [1, 7, 17])
def test_stopped_run_writes_what_it_has_and_the_next_one_ends_as_if_it_had_not_stopped(
    tmp_path: Path, most: int
):
    settings: dict[str, Any] = {
        "reasoning_sees_dialogue": True,
        "mix": {"conversation": 5, "detail": 4, "reasoning": 6},
    }
    whole, pen = Pen(), Pen(most=most)
    run(tmp_path / "whole", whole, **settings)
    asked = len(whole.asked)
    stopped = run(tmp_path / "out", pen, **settings)
    made = sum(stopped.counts[kind] for kind in SAMPLE_TYPES)
    assert isinstance(stopped.stopped, VistuneError) == (most < asked)
    assert made == min(most, asked)
    assert read_provenance(tmp_path / "out")["complete"] is (most >= asked)
    again = Pen(paid=pen.paid)
    result = run(tmp_path / "out", again, **settings)
    assert result.stopped is None and read_provenance(tmp_path / "out")["complete"]
    assert len(pen.asked) + len(again.asked) == asked
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_run_that_is_stopped_before_its_first_sample_leaves_the_folder_free(tmp_path: Path):
    with pytest.raises(BudgetReachedError):
        run(tmp_path / "out", Pen(most=0))
    assert run(tmp_path / "out", Pen(), seed=3).counts["detail"] == 6


def test_error_of_ours_is_not_taken_for_a_bad_reply(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "out", Pen(spoil("detail", "cow", ZeroDivisionError("a bug"))))
