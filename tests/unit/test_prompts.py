"""How an LLM is asked: the shipped prompts keep the rules that they teach, and a user's own are read."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import pytest

from vistune.data.generation.checks import find_sample_flaw
from vistune.data.teachers.reply import parse_pairs, parse_prose
from vistune.data.teachers.scripted.scene_text import SceneText
from vistune.data.teachers.teacher import SAMPLE_TYPES
from vistune.errors import VistuneError
from vistune.prompts import load_prompt, unanswerable

MINE = "system: |\n  Be brief.\nexamples:\n  - context: A dog.\n    reply: |\n      It is a dog.\n"
EXAMPLES = [
    pytest.param(kind, context, reply, id=f"{kind}-{number}")
    for kind in SAMPLE_TYPES
    for number, (context, reply) in enumerate(load_prompt(kind).examples)
]


def test_there_are_as_many_examples_as_in_the_paper():
    counts = {kind: len(load_prompt(kind).examples) for kind in SAMPLE_TYPES}
    assert counts == {"conversation": 2, "detail": 3, "reasoning": 3}


def test_shipped_prompts_are_these_three():
    folder = resources.files("vistune.prompts").joinpath("teacher")
    assert sorted(item.name for item in folder.iterdir()) == sorted(f"{kind}.yaml" for kind in SAMPLE_TYPES)


@pytest.mark.parametrize(("kind", "context", "reply"), EXAMPLES)
def test_reply_of_an_example_is_of_the_format_and_passes_all_checks(kind: str, context: str, reply: str):
    pairs = [("Describe it.", parse_prose(reply))] if kind == "detail" else parse_pairs(reply)
    assert find_sample_flaw(pairs, context) is None
    assert len(pairs) in ({"conversation": range(4, 6)}.get(kind, [1]))


@pytest.mark.parametrize(("kind", "context", "reply"), EXAMPLES)
def test_context_of_an_example_is_what_a_teacher_gets(kind: str, context: str, reply: str):
    scene = SceneText.parse(context)
    assert len(scene.captions) == 5
    if kind == "conversation":
        assert scene.boxes == () and "[" not in context
        return
    assert len(scene.boxes) >= 3
    assert "\n".join(box.line() for box in scene.boxes) == context.split("\n\n")[1]
    for box in scene.boxes:
        x1, y1, x2, y2 = box.corners
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def test_no_two_examples_are_of_one_scene():
    assert len({context for kind in SAMPLE_TYPES for context, _ in load_prompt(kind).examples}) == 8


@pytest.mark.parametrize("kind", SAMPLE_TYPES)
def test_messages_are_system_examples_in_turn_and_the_picture_last(kind: str):
    prompt = load_prompt(kind)
    messages = prompt.messages("A cat.")
    roles = [role for role, _ in messages]
    assert roles == ["system", *["user", "assistant"] * len(prompt.examples), "user"]
    assert messages[-1] == ("user", "A cat.") and messages[0] == ("system", prompt.system)
    assert messages[1][1] == prompt.examples[0][0] and messages[2][1] == prompt.examples[0][1]


def test_digest_is_that_of_the_file(tmp_path: Path):
    shipped = resources.files("vistune.prompts").joinpath("teacher", "detail.yaml").read_bytes()
    assert load_prompt("detail").digest == hashlib.sha256(shipped).hexdigest()
    (tmp_path / "detail.yaml").write_text(MINE, encoding="utf-8")
    mine = load_prompt("detail", tmp_path)
    assert mine.digest == hashlib.sha256(MINE.encode()).hexdigest()
    assert (mine.system, mine.examples) == ("Be brief.", (("A dog.", "It is a dog."),))


@pytest.mark.parametrize(
    "content",
    ["", "system: x", "examples: []", "system: 5\nexamples: []", "system: x\nexamples: [a]", "system: [",
     "system: x\nexamples:\n  - context: A dog.\n", "system: x\nexamples:\n  - {context: 5, reply: x}\n"],
)  # fmt: skip
def test_prompt_of_another_shape_is_refused_with_what_was_expected(tmp_path: Path, content: str):
    (tmp_path / "detail.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(VistuneError, match=r"detail\.yaml: expected `system: TEXT` and `examples: "):
        load_prompt("detail", tmp_path)


def test_prompt_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "detail.yaml").write_bytes(b"system: \xff\xfe")
    with pytest.raises(VistuneError, match=r"detail\.yaml: expected `system: TEXT`"):
        load_prompt("detail", tmp_path)


def test_missing_prompt_is_refused_with_its_path(tmp_path: Path):
    with pytest.raises(VistuneError, match=r"detail\.yaml: cannot be read \(No such file.*--prompts"):
        load_prompt("detail", tmp_path)


def test_words_that_make_a_question_fair_are_words():
    """YAML reads a bare `on` or `no` as a truth value."""
    assert len(unanswerable()) >= 6
    for row in unanswerable():
        assert isinstance(row["asks"], str) and all(isinstance(word, str) for word in row["needs"]), row
