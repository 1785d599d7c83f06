"""The offline teacher: every answer is true of the boxes, and it knows nothing but the context.

The truth is worked out here anew, from the boxes, with tables that are written by hand.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.teachers.reply import parse_pairs, parse_prose
from vistune.data.teachers.scripted import QUESTION_KINDS, OfflineTeacher, kind_of_question
from vistune.data.teachers.scripted.scene_text import SceneText
from vistune.data.teachers.teacher import SampleType, TeacherRequest
from vistune.data.wording import counted

NAMES = {  # a category, one of it, several of it
    "cat": ("a cat", "cats"),
    "dog": ("a dog", "dogs"),
    "sheep": ("a sheep", "sheep"),
    "umbrella": ("an umbrella", "umbrellas"),
    "wine glass": ("a wine glass", "wine glasses"),
    "woman": ("a woman", "women"),
}
CATEGORIES = [*NAMES, "airplane", "bus", "clock", "giraffe"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

WORDINGS = {
    "presence": [
        "Is there a dog in the picture?",
        "Is there an umbrella in the picture?",
        "Can you see some scissors here?",
        "Does the picture show a wine glass?",
    ],
    "count": [
        "How many dogs are there?",
        "How many wine glasses can you see?",
        "What is the number of women in the picture?",
    ],
    "position": [
        "Where is the dog?",
        "Where in the picture is the wine glass?",
        "In which part of the picture is the dog?",
    ],
    "relation": [
        "Is the dog to the left or to the right of the wine glass?",
        "Is the dog above or below the cat?",
        "Is the dog to the left of the cat?",
        "Is the dog to the right of the cat?",
        "Is the dog above the cat?",
        "Is the dog below the cat?",
    ],
    "listing": ["What is in the picture?", "Which things can you see?", "What does the picture show?"],
}


def context_of(boxes: list[Box], *captions: str) -> str:
    return AnnotatedImage("1", ("a.jpg",), captions, tuple(boxes)).context()


def converse(context: str, seed: str = "0", categories: list[str] = CATEGORIES) -> list[tuple[str, str]]:
    teacher = OfflineTeacher(categories)
    return parse_pairs(teacher.reply(TeacherRequest("conversation", context, seed)))


def write(kind: SampleType, context: str, seed: str = "0") -> str:
    return OfflineTeacher(CATEGORIES).reply(TeacherRequest(kind, context, seed))


def conversations(annotations: Annotations, seeds: int) -> list[tuple[AnnotatedImage, str, str]]:
    """Image, question and answer of every turn of some seeds."""
    categories = list(annotations.categories)
    return [
        (image, question, answer)
        for image in annotations.images
        for seed in range(seeds)
        for question, answer in converse(image.context(), str(seed), categories)
    ]


# The truth, from the boxes


def counts_of(boxes: list[Box]) -> Counter[str]:
    return Counter(box.category for box in boxes)


def name_of_several(plural: str) -> str:
    return next(name for name, (_, several) in NAMES.items() if several == plural)


def only(boxes: list[Box], name: str) -> Box:
    """The one box of that name; a question about "the dog" needs exactly one dog."""
    (box,) = [box for box in boxes if box.category == name]
    return box


def true_presence(match: re.Match[str], boxes: list[Box]) -> str:
    article, name = match["a"].split(" ", 1)
    assert article == ("an" if name[0] in "aeiou" else "a")
    return "Yes." if name in counts_of(boxes) else "No."


def true_count(match: re.Match[str], boxes: list[Box]) -> str:
    return NUMBERS[counts_of(boxes)[name_of_several(match["many"])]].capitalize() + "."


def true_position(match: re.Match[str], boxes: list[Box]) -> str:
    x1, y1, x2, y2 = only(boxes, match["one"]).corners
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    column = "left" if x < 0.4 else "right" if x > 0.6 else ""
    row = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    if row:
        return f"At the {row} {column}".strip() + "."
    return f"On the {column}." if column else "In the center."


def true_relation(match: re.Match[str], boxes: list[Box]) -> str:
    one, other = (only(boxes, match[group]).corners for group in ("one", "other"))
    dx, dy = one[0] + one[2] - other[0] - other[2], one[1] + one[3] - other[1] - other[3]
    asked = match["relation"]
    if asked == "to the left or to the right of":
        return "To the left." if dx < 0 else "To the right."
    if asked == "above or below":
        return "Above." if dy < 0 else "Below."
    holds = {"to the left of": dx < 0, "to the right of": dx > 0, "above": dy < 0, "below": dy > 0}
    return "Yes." if holds[asked] else "No."


def true_listing(match: re.Match[str], boxes: list[Box]) -> str:
    things = [
        NAMES[name][0] if count == 1 else f"{NUMBERS[count]} {NAMES[name][1]}"
        for name, count in sorted(counts_of(boxes).items())
    ]
    text = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return text[0].upper() + text[1:] + "."


RULES = [
    (
        "presence",
        r"(?:Is there|Can you see|Does the picture show) (?P<a>an? .+?)(?: in the picture| here)?\?",
    ),
    ("count", r"(?:How many|What is the number of) (?P<many>.+?) (?:are there|can you see|in the picture)\?"),
    ("position", r"(?:Where|Where in the picture|In which part of the picture) is the (?P<one>.+)\?"),
    (
        "relation",
        r"Is the (?P<one>.+?) (?P<relation>to the left or to the right of|above or below|to the left of"
        r"|to the right of|above|below) the (?P<other>.+)\?",
    ),
    ("listing", r"What is in the picture\?|Which things can you see\?|What does the picture show\?"),
]
TRUTHS = {
    "presence": true_presence,
    "count": true_count,
    "position": true_position,
    "relation": true_relation,
    "listing": true_listing,
}


def truth(question: str, boxes: list[Box]) -> tuple[str, str]:
    """The kind of a question, and its true answer."""
    for kind, pattern in RULES:
        if match := re.fullmatch(pattern, question):
            return kind, TRUTHS[kind](match, boxes)
    raise AssertionError(f"a question of no kind: {question}")


@st.composite
def some_boxes(draw: st.DrawFn) -> list[Box]:
    """One to eight boxes, their corners in thousandths as a context shows them."""
    boxes = []
    for name in draw(st.lists(st.sampled_from(sorted(NAMES)), min_size=1, max_size=8)):
        x1, y1 = draw(st.integers(0, 900)), draw(st.integers(0, 900))
        x2, y2 = draw(st.integers(x1 + 1, 1000)), draw(st.integers(y1 + 1, 1000))
        boxes.append(Box(name, (x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000)))
    return boxes


def square(name: str, x: float, y: float, side: float = 0.1) -> Box:
    """A square box around a centre."""
    corners = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return Box(name, tuple(round(value, 3) for value in corners))  # type: ignore[arg-type]


RICH = [
    square("dog", 0.2, 0.2),
    square("cat", 0.8, 0.5),
    square("umbrella", 0.5, 0.9),
    *(square("woman", 0.1 + n / 10, 0.7) for n in range(3)),
]


# Conversation


@given(boxes=some_boxes(), seed=st.integers(0, 99))
@settings(max_examples=300)
def test_every_answer_is_true_of_the_boxes(boxes: list[Box], seed: int):
    for question, answer in converse(context_of(boxes), str(seed)):
        assert answer == truth(question, boxes)[1], question


def test_all_five_kinds_are_asked_and_both_yes_and_no_are_answered():
    turns = [turn for seed in range(60) for turn in converse(context_of(RICH), str(seed))]
    kinds = {truth(question, RICH)[0] for question, _ in turns}
    assert kinds == set(QUESTION_KINDS) == set(WORDINGS)
    for kind in ("presence", "relation"):
        answers = {answer for question, answer in turns if truth(question, RICH)[0] == kind}
        assert {"Yes.", "No."} <= answers, kind


@given(boxes=some_boxes(), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_no_question_is_asked_twice_in_one_conversation(boxes: list[Box], seed: int):
    questions = [question for question, _ in converse(context_of(boxes), str(seed))]
    assert len(questions) == len(set(questions)), questions


@pytest.mark.parametrize("box", [square("dog", 0.2, 0.41), square("dog", 0.59, 0.2), square("dog", 0.4, 0.6)])
def test_place_near_a_border_between_regions_is_never_asked_about(box: Box):
    for seed in range(40):
        for question, _ in converse(context_of([box]), str(seed)):
            assert kind_of_question(question) != "position", question


def test_place_of_a_thing_that_fills_the_picture_is_never_asked_about():
    boxes = [Box("dog", (0.0, 0.0, 0.6, 0.6)), square("cat", 0.9, 0.9)]
    for seed in range(40):
        for question, _ in converse(context_of(boxes), str(seed)):
            assert "the dog" not in question, question


def test_relation_of_things_that_lie_close_together_is_never_asked_about():
    boxes = [square("dog", 0.5, 0.5), square("cat", 0.6, 0.6)]
    for seed in range(40):
        for question, _ in converse(context_of(boxes), str(seed)):
            assert kind_of_question(question) != "relation", question


def test_conversation_about_captions_alone_says_what_they_say():
    assert converse("A dog runs.\nA brown dog runs after a ball.") == [
        ("What can be seen here?", "A brown dog runs after a ball.")
    ]


# Things that are absent


@pytest.mark.parametrize("caption", ["A bus stops.", "Two buses stop.", "Some vehicle stops."])
def test_thing_that_a_caption_mentions_or_may_mean_is_never_called_absent(caption: str):
    context = context_of([square("dog", 0.2, 0.2)], caption)
    asked = {q for seed in range(60) for q, answer in converse(context, str(seed)) if answer == "No."}
    absent = {name for name in CATEGORIES if any(f" {name} " in q or f" {name}?" in q for q in asked)}
    assert absent == set(CATEGORIES) - {"dog", "bus"}


def called_absent(annotations: Annotations, seeds: int) -> list[tuple[AnnotatedImage, str]]:
    return [
        (image, re.sub(r"^(an?|some) ", "", re.sub(r" (in the picture|here)$", "", match[1])))
        for image, question, answer in conversations(annotations, seeds)
        if answer == "No."
        and (match := re.fullmatch(r"(?:Is there|Can you see|Does the picture show) (.+)\?", question))
    ]


@pytest.mark.parametrize("source", ["world_annotations", "coco_mini_annotations"])
def test_absent_things_are_in_no_box_and_in_no_caption(request: pytest.FixtureRequest, source: str):
    annotations: Annotations = request.getfixturevalue(source)
    absent = called_absent(annotations, seeds=4)
    assert len(absent) > 2 * len(annotations.images)
    for image, name in absent:
        words = re.findall("[a-z]+", " ".join(image.captions).lower())
        category = name.removeprefix("pair of ").removeprefix("piece of ")
        assert category in annotations.categories
        assert category not in [box.category for box in image.boxes]
        assert not {name.split()[-1], name.split()[-1] + "s", name.split()[-1] + "es"} & set(words), (
            name,
            words,
        )


# Kinds of questions


@pytest.mark.parametrize(
    ("kind", "question"), [(k, q) for k, questions in WORDINGS.items() for q in questions]
)
def test_kind_of_every_wording_is_recognised(kind: str, question: str):
    assert kind_of_question(question) == kind


@pytest.mark.parametrize(
    "question",
    ["", "What can be seen here?", "Where is it", "Why is the dog here?", "is there a dog in the picture?"],
)
def test_other_questions_are_of_no_kind(question: str):
    assert kind_of_question(question) is None


@given(boxes=some_boxes(), seed=st.integers(0, 99))
@settings(max_examples=50)
def test_kind_of_every_question_that_is_written_is_recognised(boxes: list[Box], seed: int):
    for question, _ in converse(context_of(boxes), str(seed)):
        assert kind_of_question(question) == truth(question, boxes)[0]


@pytest.mark.parametrize("source", ["world_annotations", "coco_mini_annotations"])
def test_every_question_about_annotated_images_has_a_kind(request: pytest.FixtureRequest, source: str):
    turns = conversations(request.getfixturevalue(source), seeds=2)
    assert {kind_of_question(question) for _, question, _ in turns} == set(QUESTION_KINDS)


# Detail and reasoning


def test_description_tells_counts_then_the_most_telling_caption_then_places():
    boxes = [square("dog", 0.2, 0.2, 0.2), square("cat", 0.8, 0.8, 0.6), square("cat", 0.5, 0.5, 0.3)]
    text = parse_prose(write("detail", context_of(boxes, "Pets.", "Some pets play.")))
    assert text == (
        "The picture shows two cats and a dog. Some pets play. A cat is in the center. "
        "A large cat is at the bottom right. The small dog is at the top left."
    )


def test_description_of_captions_alone_holds_the_captions():
    assert write("detail", "A dog runs.\nA dog") == "A dog runs. A dog."


def test_argument_names_the_signs_that_it_rests_on():
    boxes = [square("cake", 0.5, 0.5), square("balloon", 0.2, 0.2), square("balloon", 0.8, 0.2)]
    ((question, answer),) = parse_pairs(write("reasoning", context_of(boxes)))
    assert question == "What might be celebrated here?"
    assert answer.startswith("This is probably a birthday. Two balloons and a cake are in the picture, and ")


def test_argument_needs_its_signs():
    ((question, _),) = parse_pairs(write("reasoning", context_of([square("cake", 0.5, 0.5)], "A cake.")))
    assert question != "What might be celebrated here?"


def test_argument_without_any_sign_falls_back_on_the_caption():
    ((_, answer),) = parse_pairs(write("reasoning", "Nothing much."))
    assert answer.startswith("Nothing much.")


# What the teacher knows


def test_request_holds_nothing_but_type_context_and_seed():
    assert [field.name for field in fields(TeacherRequest)] == ["type", "context", "seed", "attempt"]


@pytest.mark.parametrize("kind", ["conversation", "detail", "reasoning"])
def test_same_request_gets_the_same_reply_from_any_teacher(kind: SampleType):
    context = context_of(RICH, "Women and pets.")
    shuffled = OfflineTeacher(CATEGORIES[::-1])
    assert write(kind, context, "9") == shuffled.reply(TeacherRequest(kind, context, "9"))


def test_other_seeds_give_other_conversations():
    assert len({write("conversation", context_of(RICH), str(seed)) for seed in range(20)}) > 10


# Crowds, and names that cannot be counted as they are

CROWDED = """A busy square.

bird: [0.1, 0.1, 0.2, 0.2]
person (crowd): [0, 0.5, 1, 1]
person: [0.4, 0.6, 0.5, 0.9]"""


@pytest.mark.parametrize("seed", range(20))
def test_a_crowd_is_never_counted_placed_listed_or_called_absent(seed: int):
    teacher = OfflineTeacher(["bird", "person", "dog", "car"])
    reply = teacher.reply(TeacherRequest("conversation", CROWDED, str(seed)))
    pairs = parse_pairs(reply)
    assert {kind_of_question(question) for question, _ in pairs} <= {"presence", "count", "position"}
    assert not [question for question, _ in pairs if "person" in question or "people" in question]


def test_a_description_says_that_a_crowd_is_many():
    reply = OfflineTeacher(["bird", "person"]).reply(TeacherRequest("detail", CROWDED, "0"))
    assert reply.startswith("The picture shows a bird and many people.")
    assert "The person" not in reply


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("dog", "a dog", "two dogs"),
        ("umbrella", "an umbrella", "two umbrellas"),
        ("person", "a person", "two people"),
        ("sheep", "a sheep", "two sheep"),
        ("wine glass", "a wine glass", "two wine glasses"),
        ("skis", "a pair of skis", "two pairs of skis"),
        ("broccoli", "a piece of broccoli", "two pieces of broccoli"),
    ],
)
def test_things_are_counted_as_people_count_them(name: str, one: str, two: str):
    assert counted(name, 1) == one
    assert counted(name, 2) == two


def test_a_caption_that_looks_like_a_box_stays_a_caption():
    scene = SceneText.parse("cat: [0.1, 0.1, 0.2, 0.2]\nA cat.\n\ndog: [0.1, 0.1, 0.2, 0.2]")
    assert list(scene.counts) == ["dog"]
    assert scene.captions[0] == "cat: [0.1, 0.1, 0.2, 0.2]"


def test_something_is_said_of_a_lone_thing_without_captions():
    question, answer = parse_pairs(
        OfflineTeacher(["tie"]).reply(TeacherRequest("reasoning", "tie: [0.1, 0.1, 0.2, 0.2]", "0"))
    )[0]
    assert question.endswith("?") and answer.startswith("There is a tie.")
