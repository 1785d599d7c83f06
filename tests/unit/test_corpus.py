"""A stage's data: what is kept, what is set aside, what an epoch shows, and what the cache saves."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistune.conversation import IGNORE_INDEX, from_json
from vistune.data import corpus_store, prepare
from vistune.data.corpus import Corpus, load_corpus
from vistune.data.records import write_records
from vistune.errors import VistuneError
from vistune.recipe import StageRecipe
from vistune.template import Renderer, find_template

PATCHES = 4


@pytest.fixture
def renderer(tokenizer: Any) -> Renderer:
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    return Renderer(find_template("short"), tokenizer, image_token, PATCHES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures ``a.png`` to ``d.png``."""
    for name in "abcd":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    return tmp_path


def record(image: str | list[str] | None, *texts: str) -> dict[str, Any]:
    """Questions and answers in turn."""
    speakers = ("human", "gpt") * len(texts)
    turns = [{"from": speaker, "value": text} for speaker, text in zip(speakers, texts, strict=False)]
    return {"id": "x", "conversations": turns} | ({"image": image} if image else {})


def stage(data: dict[str, Any], mix: str = "passes") -> StageRecipe:
    return StageRecipe(trains=("connector", "llm"), data=data, mix=mix, learning_rate=1.0, batch_size=2)


def load(folder: Path, renderer: Renderer, data: dict[str, Any] | list[str], **options: Any) -> Corpus:
    data = data if isinstance(data, dict) else dict.fromkeys(data, 1)
    settings = {"images": folder, "max_length": 64, "seed": 0, "cache": folder / "cache", **options}
    recipe = stage(data, settings.pop("mix", "passes"))
    return load_corpus(recipe, folder, renderer=renderer, **settings)


DIALOGUES = [
    record("a.png", "<image>\nWhat is it?", "A dog."),
    record("b.png", "<image>\nWhat is it?", "A cat."),
    record("a.png", "<image>\nHow many?", "Two.", "And now?", "None."),
    record(None, "Hello?", "Hello."),
    record(None, "Hello?", "Hello."),
    record("a.png", "How many?\n<image>", "Two."),
    record(["a.png", "c.png"], "<image>\nWhat?", "A dog.", "<image>\nAnd this?", "A bird."),
    record(["a.png", "c.png"], "<image><image>\nThe same?", "No."),
    record(["a.png", "d.png"], "<image><image>\nThe same?", "No."),
    record(["a.png", "c.png"], "<image><image>\nAlike?", "Yes."),
]


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_samples_are_those_that_the_renderer_makes(folder: Path, renderer: Renderer, kind: str):
    write_records(folder / f"data.{kind}", DIALOGUES)
    corpus = load(folder, renderer, [f"data.{kind}"])
    expected = renderer.encode_all([from_json(dialogue) for dialogue in DIALOGUES])
    assert len(corpus) == len(DIALOGUES) and not corpus.problems and not corpus.cut
    for number, sample in enumerate(expected):
        found = corpus[number]
        assert (found.ids, found.labels, found.pictures) == (sample.ids, sample.labels, sample.pictures)
        assert corpus.lengths[number] == len(sample.ids) and corpus.supervised[number] == sample.supervised
    assert corpus.pictures() == ["a.png", "b.png", "c.png", "d.png"]
    assert corpus.selection.epoch(0).tolist() == list(range(len(DIALOGUES)))
    types = (corpus.lengths.dtype, corpus.supervised.dtype, corpus.prefixes.dtype, corpus.groups.dtype)
    assert types == (np.int32, np.int32, np.int32, np.int64)


def test_prefixes_end_with_the_last_patch_before_an_answer(folder: Path, renderer: Renderer):
    write_records(folder / "data.json", DIALOGUES)
    corpus = load(folder, renderer, ["data.json"])
    image_token = renderer.image_token
    for number in range(len(corpus)):
        sample, prefix = corpus[number], int(corpus.prefixes[number])
        assert set(sample.labels[:prefix]) <= {IGNORE_INDEX}
        first = next(i for i, label in enumerate(sample.labels) if label != IGNORE_INDEX)
        patches = [i for i in range(first) if sample.ids[i] == image_token]
        assert prefix == (patches[-1] + 1 if patches else 0)
    shown = [corpus[n].ids[: corpus.prefixes[n]].count(image_token) // PATCHES for n in range(len(corpus))]
    assert shown == [1, 1, 1, 0, 0, 1, 1, 2, 2, 2]


def test_groups_share_prefix_and_pictures_and_nothing_less(folder: Path, renderer: Renderer):
    write_records(folder / "data.json", DIALOGUES)
    groups = load(folder, renderer, ["data.json"]).groups.tolist()
    together = {frozenset(n for n, other in enumerate(groups) if other == group) for group in groups}
    assert min(groups) >= 0
    # 0, 2 and 6 begin with a.png; 5 asks before it; 7 and 9 begin with a.png and c.png, 8 with another.
    alone = [{1}, {3}, {4}, {5}, {8}]
    assert together == {frozenset({0, 2, 6}), frozenset({7, 9}), *map(frozenset, alone)}


def test_groups_reach_over_files(folder: Path, renderer: Renderer):
    write_records(folder / "one.json", DIALOGUES[:2])
    write_records(folder / "two.json", DIALOGUES[:2])
    groups = load(folder, renderer, ["one.json", "two.json"]).groups
    assert groups[0] == groups[2] != groups[1] == groups[3]


def test_picture_first_puts_it_before_the_question(folder: Path, renderer: Renderer):
    after = [
        record("a.png", "How many?\n<image>", "Two."),
        record("a.png", "<image>\nHow many?", "Two."),
    ]
    write_records(folder / "data.json", after)
    moved = load(folder, renderer, ["data.json"], picture="first")
    assert moved[0].ids == moved[1].ids and moved.groups[0] == moved.groups[1]
    written = load(folder, renderer, ["data.json"])
    assert written[0].ids != moved[0].ids and written[1].ids == moved[1].ids


# What is set aside


def test_every_kind_of_bad_record_is_told_with_its_place(folder: Path, renderer: Renderer):
    long = "word " * 60
    lines = [
        record("a.png", "<image>\nWhat?", "A dog."),
        "{broken",
        record("a.png", "What?", "A dog."),  # no placeholder
        record("none.png", "<image>\nWhat?", "A dog."),
        record("text.png", "<image>\nWhat?", "A dog."),
        record("../a.png", "<image>\nWhat?", "A dog."),
        record("b.zip!/a.png", "<image>\nWhat?", "A dog."),
        record("a.png", f"<image>\n{long}", "A dog."),
        record("a.png", "<image>\nWhat?", "A dog.", "More?", long),
        record("a.png", "<image>\n\ud800?", "A dog."),
    ]
    (folder / "text.png").write_bytes(b"just words")
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "data.jsonl").write_text("\n".join(texts) + "\n")
    corpus = load(folder, renderer, ["data.jsonl"])
    told = {problem.place.rpartition(" ")[2]: problem.reason for problem in corpus.problems}
    assert told == {
        "2": "not valid JSON",
        "3": "malformed record",
        "4": "picture is missing",
        "5": "not a picture",
        "6": "picture outside the folder of images",
        "7": "`image` is not a file name",
        "8": "longer than max_length",
        "10": "text is not valid Unicode",
    }
    assert [problem.place for problem in corpus.problems] == [
        f"{folder / 'data.jsonl'}: line {line}" for line in (2, 3, 6, 7, 8, 10, 4, 5)
    ]
    assert len(corpus) == 2 and corpus.pictures() == ["a.png"]
    assert corpus.place(1) == f"{folder / 'data.jsonl'}: line 9"


def test_a_long_record_is_cut_at_a_turns_end(folder: Path, renderer: Renderer):
    short = record("a.png", "<image>\nWhat?", "A dog.")
    long = record(["a.png", "b.png"], "<image>\nWhat?", "A dog.", "<image>\nMore?", "word " * 60)
    write_records(folder / "data.json", [short, long])
    corpus = load(folder, renderer, ["data.json"])
    assert corpus.cut == 1 and not corpus.problems
    assert corpus[1].ids == corpus[0].ids and corpus[1].pictures == ["a.png"]
    assert corpus.groups[0] == corpus.groups[1]


def test_a_file_of_which_nothing_is_left_is_named_with_its_first_problem(folder: Path, renderer: Renderer):
    write_records(folder / "good.json", DIALOGUES[:1])
    write_records(folder / "bad.json", [record("none.png", "<image>\nWhat?", "A dog.")])
    said = r"bad\.json: no record is left to train on\. First problem: .*line 2, record 1: picture is missing"
    with pytest.raises(VistuneError, match=said):
        load(folder, renderer, ["good.json", "bad.json"])
    write_records(folder / "empty.json", [])
    with pytest.raises(VistuneError, match=r"empty\.json: holds no record"):
        load(folder, renderer, ["good.json", "empty.json"])
    with pytest.raises(VistuneError, match=r"absent\.json: cannot be read"):
        load(folder, renderer, ["good.json", "absent.json"])


# Several places of pictures


def test_a_stage_that_learns_from_pictures_alone_needs_one(folder: Path, renderer: Renderer):
    (folder / "text.json").write_text(json.dumps(DIALOGUES[3:5]))
    connector = stage({"text.json": 1}).model_copy(update={"trains": ("connector",)})
    with pytest.raises(VistuneError, match=r"text\.json: no record shows a picture.*add llm to `trains`"):
        load_corpus(connector, folder, folder, renderer, 64, 0, folder / "cache")
    assert len(load(folder, renderer, ["text.json"])) == 2


def test_a_file_may_have_a_place_of_pictures_of_its_own(folder: Path, renderer: Renderer):
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.write(folder / "b.png", "deep/a.png")
    write_records(folder / "one.json", [record("a.png", "<image>\nWhat?", "A dog.")])
    write_records(folder / "two.json", [record("deep/a.png", "<image>\nWhat?", "A dog.")])
    write_records(folder / "three.json", [record("a.png", "<image>\nWhat?", "A dog.")])
    data = {"one.json": 1, "two.json": {"images": "other.zip"}, "three.json": {"images": "."}}
    corpus = load(folder, renderer, data)
    assert corpus.pictures() == ["a.png", "other.zip!/deep/a.png"]
    assert corpus[1].pictures == ["other.zip!/deep/a.png"]
    assert corpus.sources.read("other.zip!/deep/a.png") == (folder / "b.png").read_bytes()
    assert corpus.groups[0] == corpus.groups[2] != corpus.groups[1]  # `.` is the run's place itself


# An epoch


def test_corpus_applies_passes_and_mix_to_what_is_left(folder: Path, renderer: Renderer):
    bad = record("none.png", "<image>\nWhat?", "A dog.")
    write_records(folder / "one.json", [bad, *DIALOGUES[:2], bad])
    write_records(folder / "two.json", DIALOGUES[:4])
    corpus = load(folder, renderer, {"one.json": 2, "two.json": 0.5})
    counts = Counter(corpus.selection.epoch(0).tolist())
    assert len(corpus) == 6 and len(corpus.selection) == 6
    assert [counts[n] for n in (0, 1)] == [2, 2] and sum(counts[n] for n in range(2, 6)) == 2
    again = Counter(corpus.selection.epoch(1).tolist())
    assert {n for n in range(2, 6) if again[n]} == {n for n in range(2, 6) if not counts[n]}
    uniform = load(folder, renderer, {"one.json": 1, "two.json": 1}, mix="uniform").selection.epoch(0)
    assert len(uniform) == 6 and (uniform < 2).sum() == 3


def test_a_share_of_a_file_is_the_same_in_every_epoch(folder: Path, renderer: Renderer):
    write_records(folder / "data.json", DIALOGUES)
    selection = load(folder, renderer, {"data.json": {"share": 0.5}}).selection
    assert len(selection) == 5
    assert sorted(selection.epoch(0)) == sorted(selection.epoch(4)) == selection.records[0].tolist()


def test_pictures_are_counted_once_a_step(folder: Path, renderer: Renderer):
    write_records(folder / "data.json", DIALOGUES)
    corpus = load(folder, renderer, ["data.json"])
    assert corpus.count_pictures([np.array([0, 2, 3, 6]), np.array([7, 8, 0])]) == 2 + 3
    assert corpus.count_pictures([np.array([3])]) == corpus.count_pictures([]) == 0


# The cache


@pytest.fixture
def encoded(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many conversations each call of the renderer encoded."""
    calls: list[int] = []
    fold_all = Renderer.fold_all

    def counting(self: Renderer, conversations: Any) -> Any:
        calls.append(len(list(conversations)))
        return fold_all(self, conversations)

    monkeypatch.setattr(Renderer, "fold_all", counting)
    return calls


def as_lists(corpus: Corpus) -> list[Any]:
    samples = [(corpus[n].ids, corpus[n].labels, corpus[n].pictures) for n in range(len(corpus))]
    numbers = (corpus.lengths, corpus.supervised, corpus.prefixes, corpus.groups, corpus.selection.epoch(1))
    return [samples, [column.tolist() for column in numbers], corpus.problems, corpus.cut]


def test_second_start_encodes_nothing_and_gives_the_same(
    folder: Path, renderer: Renderer, encoded: list[int]
):
    bad = record("none.png", "<image>\nWhat?", "A dog.")
    write_records(folder / "data.json", [*DIALOGUES, bad, record("a.png", "What?", "A dog.")])
    first = as_lists(load(folder, renderer, ["data.json"]))
    assert encoded == [11]
    assert as_lists(load(folder, renderer, ["data.json"])) == first
    assert encoded == [11]
    load(folder, renderer, {"data.json": 0.5}, seed=4)
    assert encoded == [11]  # what an epoch shows is no part of the cache


def test_whatever_samples_depend_on_makes_the_cache_stale(
    folder: Path, renderer: Renderer, tokenizer: Any, encoded: list[int], monkeypatch: pytest.MonkeyPatch
):
    path = folder / "data.json"
    write_records(path, DIALOGUES[:1])
    load(folder, renderer, ["data.json"])
    write_records(path, DIALOGUES[:3])
    assert len(load(folder, renderer, ["data.json"])) == 3
    os.utime(path, ns=(1, 1))
    load(folder, renderer, ["data.json"])
    load(folder, renderer, ["data.json"], max_length=63)
    image_token = renderer.image_token
    more = Renderer(find_template("short"), tokenizer, image_token, PATCHES + 1)
    assert load(folder, more, ["data.json"], max_length=63).lengths[0] == len(
        more.encode_all([from_json(DIALOGUES[0])])[0].ids
    )
    other = Renderer(find_template("plain"), tokenizer, image_token, PATCHES)
    load(folder, other, ["data.json"])
    load(folder, other, ["data.json"], picture="first")
    monkeypatch.setattr("vistune.data.corpus.__version__", "next")
    load(folder, other, ["data.json"], picture="first")
    assert encoded == [1, 3, 3, 3, 3, 1, 3, 3, 3]


def test_another_tokenizer_makes_the_cache_stale(folder: Path, renderer: Renderer, encoded: list[int]):
    from vistune.starter.tokenizer import train_tokenizer

    write_records(folder / "data.json", DIALOGUES[:2])
    load(folder, renderer, ["data.json"])
    other = train_tokenizer(["A dog. A cat."] * 3, vocabulary=300)
    token = other.convert_tokens_to_ids("<image>")
    again = Renderer(find_template("short"), other, token, PATCHES)
    corpus = load(folder, again, ["data.json"])
    assert encoded == [2, 2] and corpus[0].ids == again.encode(from_json(DIALOGUES[0])).ids


def test_a_mended_picture_is_found_without_encoding_again(
    folder: Path, renderer: Renderer, encoded: list[int]
):
    write_records(folder / "data.json", [DIALOGUES[0], record("e.png", "<image>\nWhat?", "A dog.")])
    assert len(load(folder, renderer, ["data.json"])) == 1
    Image.new("RGB", (8, 8)).save(folder / "e.png")
    corpus = load(folder, renderer, ["data.json"])
    assert len(corpus) == 2 and not corpus.problems and encoded == [2]


def test_stages_share_a_cache(folder: Path, renderer: Renderer, encoded: list[int]):
    write_records(folder / "one.json", DIALOGUES[:2])
    write_records(folder / "two.json", DIALOGUES[:3])
    for _ in range(2):
        load(folder, renderer, ["one.json"])
        load(folder, renderer, ["two.json"])
    assert encoded == [2, 3]


def test_interrupted_preparation_leaves_no_half_cache(
    folder: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
):
    write_records(folder / "data.json", DIALOGUES)
    add = corpus_store.SampleWriter.add

    def interrupted(self: Any, sample: Any, file: int, place: str) -> None:
        if place.endswith("record 5"):
            raise KeyboardInterrupt
        add(self, sample, file, place)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare.SampleWriter, "add", interrupted)
        load(folder, renderer, ["data.json"])
    assert not list((folder / "cache").glob("corpus-*"))
    (folder / "cache").joinpath("corpus-x.part").mkdir()  # as a kill leaves it
    assert len(load(folder, renderer, ["data.json"])) == len(DIALOGUES)


def test_full_disk_is_told_by_the_folder(folder: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    write_records(folder / "data.json", DIALOGUES)
    monkeypatch.setattr(prepare.SampleWriter, "close", full)
    with pytest.raises(VistuneError, match=r"corpus-\w+: cannot be written \(No space left on device\)"):
        load(folder, renderer, ["data.json"])
    assert not list((folder / "cache").glob("corpus-*"))


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_batches_on_disk_do_not_show(
    folder: Path, renderer: Renderer, rows: int, monkeypatch: pytest.MonkeyPatch
):
    write_records(folder / "data.json", DIALOGUES)
    whole = as_lists(load(folder, renderer, ["data.json"]))
    monkeypatch.setattr(corpus_store, "_ROWS", rows)
    monkeypatch.setattr(prepare, "_AT_ONCE", 2)
    assert as_lists(load(folder, renderer, ["data.json"], cache=folder / "other")) == whole
