"""Leaks of the source: what shows that the writer read captions and boxes, and what only looks like it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vistune.data.generation.generate import question_list
from vistune.data.leaks import find_leak

LEAKS = """
The caption says that a dog runs.
According to the captions, two men are playing.
As the second caption mentions, it is cold.
Captions mention a red car.
What do the captions tell about the weather?
This can be seen from captions.
The image caption describes a market.
Based on the bounding boxes, the dog is on the left.
The bounding-box of the dog is large.
Its bbox covers half of the image.
The object annotations list three cups.
According to the annotations there are five birds.
The coordinates show that the cat is left of the dog.
The cat lies at coordinates [0.1, 0.2].
The dog (0.12, 0.5, 0.3, 0.9) is running.
person: [0.126, 0.4, 1, 0.72]
It stands at [12, 40, 300, 220].
The description does not mention any people.
The given description says nothing about it.
Based on the provided information, it is a sunny day.
The color of the shirt is not specified in the description.
It isn't explicitly mentioned in the context.
According to the image description, there is a bus.
One of the sentences states that he is tired.
The descriptions provided suggest a birthday.
From the given context, this is a farm.
In the image, they are described as antique.
Their age is not explicitly mentioned.
""".strip().splitlines()

CLEAN = """
The captain of the boat waves at the people.
Several cardboard boxes are stacked beside the door.
A pizza box lies on the table; the boxes of fruit stand in the market.
The boxer is wearing gloves.
The woman coordinates the team on the field.
His outfit coordinates with the red scarf.
Write a short caption for this picture.
The television shows closed captions.
A sign provides information about the park.
The tags give details of the price.
The people are given instructions by the coach.
There are two dogs (one is black) and 3 cats.
The clock shows 10:35, and the bus has the number [42].
He reads the text on the sign.
The mood can be described as calm.
Based on the context of the scene, it is probably a wedding.
The prisoner received a long sentence.
The scene provides a lovely context.
""".strip().splitlines()


@pytest.mark.parametrize("text", LEAKS)
def test_talk_of_the_source_is_found(text: str) -> None:
    found = find_leak(text)
    assert found and found in text


@pytest.mark.parametrize("text", CLEAN)
def test_words_that_only_look_like_it_are_not(text: str) -> None:
    assert find_leak(text) is None


def test_our_own_questions_are_clean() -> None:
    assert not [
        question for name in ("brief", "detail") for question in question_list(name) if find_leak(question)
    ]


def test_reference_answers_of_the_bench_leak_once(shared_bench: list[str]) -> None:
    """GPT-4 wrote these 90 answers from captions and boxes; by reading, one of them lets it show."""
    assert [leak for text in shared_bench if (leak := find_leak(text))] == ["are described as"]


@pytest.fixture
def shared_bench() -> list[str]:
    path = Path(__file__).resolve().parents[2].parent / "shared/data/llava-bench-coco/qa90_gpt4_answer.jsonl"
    if not path.exists():
        pytest.skip("needs ../shared/data/llava-bench-coco, which is not part of the repository")
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
