"""A review's two scores, what a judge is shown, and what it knows of a picture."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import pytest

from tests.fake_judge import lines
from vistune.errors import VistuneError
from vistune.evaluate.benches.llava_bench import KINDS
from vistune.evaluate.judge.context import read_contexts
from vistune.evaluate.judge.request import load_judge_prompt
from vistune.evaluate.judge.review import ReviewError, parse_scores


@pytest.mark.parametrize(
    ("content", "scores"),
    [
        ("8 7", (8, 7)),
        ("9 6.5\nAssistant 1 is better.", (9, 6.5)),
        ("8, 7", (8, 7)),
        ("8,7\nNo space.", (8, 7)),
        ("  10\t1  \r\nWide.", (10, 1)),
        ("\n\n1 10\nLate.", (1, 10)),
        ("8; 7", (8, 7)),
        ("8 / 7", (8, 7)),
        ("8.0 7.25", (8, 7.25)),
    ],
)
def test_two_scores_are_read_from_the_first_line(content: str, scores: tuple[float, float]):
    assert parse_scores(content) == scores


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty review"),
        (" \n ", "empty review"),
        ("Here are my scores:\n8 7", "the first line is not two scores"),
        ("Assistant 1: 8, Assistant 2: 7", "the first line is not two scores"),
        ("I gave 3 of the 5 points.\n8 7", "the first line is not two scores"),
        ("8 7 are my scores", "the first line is not two scores"),
        ("8", "the first line is not two scores"),
        ("87", "the first line is not two scores"),
        ("8 7 6", "the first line is not two scores"),
        ("8,5 7,5", "the first line is not two scores"),
        ("8/10 7/10", "the first line is not two scores"),
        ("**8 7**", "the first line is not two scores"),
        ("eight seven", "the first line is not two scores"),
        ("٨ ٧", "the first line is not two scores"),
        ("nan 7", "the first line is not two scores"),
        ("0 7", "a score outside 1 to 10"),
        ("8 11", "a score outside 1 to 10"),
        ("-8 7", "a score outside 1 to 10"),
        ("85 70", "a score outside 1 to 10"),
        ("0.5 7", "a score outside 1 to 10"),
    ],
)
def test_anything_else_is_a_failure_with_a_reason(content: str, reason: str):
    with pytest.raises(ReviewError) as error:
        parse_scores(content)
    assert error.value.reason == reason
    assert error.value.detail == content.strip().split("\n")[0].strip()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_stand_in_the_published_order_and_the_rule_is_the_categorys(kind: str):
    prompt = load_judge_prompt(None, KINDS)
    (system, _), (user, text) = prompt.messages(kind, "CONTEXT", "QUESTION", "FIRST", "SECOND")
    assert (system, user) == ("system", "user")
    places = [text.index(part) for part in ("CONTEXT", "QUESTION", "FIRST", "SECOND", prompt.rules[kind])]
    assert places == sorted(places) and text.endswith(prompt.form)
    assert all(text.count(heading) == 1 for heading in prompt.headings.values())
    assert not any(prompt.rules[other] in text for other in KINDS if other != kind)


def test_digest_is_the_files_hash():
    shipped = resources.files("vistune.prompts").joinpath("judge", "llava_bench.yaml").read_bytes()
    assert load_judge_prompt(None, KINDS).digest == hashlib.sha256(shipped).hexdigest()


def test_own_prompt_is_read_and_one_that_lacks_a_rule_is_refused(tmp_path: Path):
    shipped = resources.files("vistune.prompts").joinpath("judge", "llava_bench.yaml").read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.replace("system: |\n", "system: |\n  Be kind.\n"))
    assert load_judge_prompt(mine, KINDS).system.startswith("Be kind.")
    mine.write_text(shipped.replace("  complex: |", "  other: |"))
    with pytest.raises(VistuneError, match=r"mine.yaml: expected .*complex"):
        load_judge_prompt(mine, KINDS)
    with pytest.raises(VistuneError, match="Check --prompt"):
        load_judge_prompt(tmp_path / "none.yaml", KINDS)


def test_both_forms_of_context_are_read(tmp_path: Path):
    boxes = [
        {"category": "dog", "bbox": [0.1, 0.25, 0.5, 1.0]},
        {"category": "cat", "bbox": [0, 0, 0.125, 1]},
    ]
    lines(tmp_path / "context.jsonl", [
        {"id": "1", "image": "1.jpg", "caption": "A dog. "},
        {"id": "2", "image": "2.jpg", "captions": ["A dog.", "A cat."], "instances": boxes},
        {"id": "3", "image": "3.jpg", "captions": ["Empty."], "instances": []},
    ])  # fmt: skip
    contexts = read_contexts(tmp_path / "context.jsonl")
    assert not contexts.problems and contexts.by_image == {
        "1.jpg": "A dog.",
        "2.jpg": "A dog.\nA cat.\n\ndog: [0.1, 0.25, 0.5, 1]\ncat: [0, 0, 0.125, 1]",
        "3.jpg": "Empty.",
    }


def test_context_that_cannot_be_used_is_set_aside_with_its_line(tmp_path: Path):
    path = tmp_path / "context.jsonl"
    rows = [
        '{"image": "1.jpg", "caption": "A dog."}',
        "{",
        "[]",
        '{"image": "2.jpg"}',
        '{"image": "3.jpg", "caption": 3}',
        '{"image": "4.jpg", "captions": ["x"], "instances": [{"category": "dog", "bbox": [0, 0, 640, 480]}]}',
        '{"image": "5.jpg", "caption": "One."}',
        '{"image": "5.jpg", "caption": "Another."}',
        '{"image": "1.jpg", "caption": "A dog."}',
    ]
    path.write_text("\n".join(rows) + "\n")
    contexts = read_contexts(path)
    assert contexts.by_image == {"1.jpg": "A dog."}
    assert [(problem.place.rsplit(":")[-1], problem.reason) for problem in contexts.problems] == [
        ("2", "not JSON"),
        ("3", "not a JSON object"),
        ("4", "not a picture's context"),
        ("5", "not a picture's context"),
        ("6", "not a picture's context"),
        ("8", "two different contexts of one picture; neither used"),
    ]
    path.write_text("{}\n")
    with pytest.raises(VistuneError, match="holds no context"):
        read_contexts(path)
