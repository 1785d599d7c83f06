"""VQA: the text rules, the ten-answer accuracy, and the files."""

import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.vqa import Vqa, ten_answer_accuracy
from vistune.evaluate.benches.vqa_text import normalise
from vistune.evaluate.measure import measures
from vistune.evaluate.sheet import Row, Sheet, join, read_sheet

ANSWERS = st.lists(st.sampled_from(["red", "blue", "2", "no"]), min_size=10, max_size=10)
TEXTS = st.text(st.sampled_from(list("aten two.,'’!-:$3 THE\n")), max_size=30)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes.", "yes"),
        ("The Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("someone", "someone"),  # number words are whole words
        ("3.50", "3.50"),
        ("3.", "3"),
        (".5", ".5"),
        ("p.m.", "pm"),
        ("2:50 PM", "2:50 pm"),
        ("100,978", "100978"),
        ("1,2,3", "123"),
        ("red, white", "red white"),
        ("black/white", "black white"),
        ("t-shirt (left)", "t shirt left"),
        ("girl's", "girl's"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("couldntve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("isn’t", "isn't"),
        ("well, its his shell", "well its his shell"),  # words of their own, not we'll, it's, she'll
        ("twas 5 oclock", "'twas 5 o'clock"),
        ("50%", "50%"),
        ("  an\tapple\nand a pear ", "apple and pear"),
        ("a", ""),
    ],
)
def test_normalised_by_hand(answer, normal):
    assert normalise(answer) == normal


@given(TEXTS)
def test_a_normalised_answer_has_no_capitals_articles_or_loose_points(text):
    words = normalise(text).split(" ")
    assert not {"a", "an", "the", "two", "ten"} & set(words)
    assert normalise(text) == normalise(text).lower() == " ".join(normalise(text).split())
    assert not any(word.endswith(".") or set(word) & set(",!-’") for word in words)


@given(TEXTS)
def test_case_and_outer_space_change_nothing(text):
    assert normalise(text.upper()) == normalise(f"  {text}\n") == normalise(text)


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_by_hand(matches, accuracy):
    references = ["red"] * matches + ["blue"] * (10 - matches)
    assert ten_answer_accuracy("red", references) == accuracy


@given(ANSWERS, st.sampled_from(["red", "blue", "2", "green"]))
def test_accuracy_is_the_mean_over_nine_of_ten(references, answer):
    subsets = [min(1, nine.count(answer) / 3) for nine in combinations(references, 9)]
    assert ten_answer_accuracy(answer, references) == pytest.approx(sum(subsets) / 10)


def ten(*counted):
    """Ten answers from (answer, how often)."""
    texts = [text for text, count in counted for _ in range(count)]
    assert len(texts) == 10
    return [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(texts, 1)]


QUESTIONS = {
    "info": {"version": "2.0"},
    "data_subtype": "val2014",
    "questions": [
        {"question_id": 42000, "image_id": 42, "question": "What colour is the bus?"},
        {"question_id": 42001, "image_id": 42, "question": "How many dogs?"},
        {"question_id": 73000, "image_id": 73, "question": "Is it day?"},
    ],
}
ANNOTATIONS = [
    {"question_id": 42000, "image_id": 42, "answer_type": "other", "answers": ten(("red", 2), ("orange", 8))},
    {"question_id": 42001, "image_id": 42, "answer_type": "number", "answers": ten(("2", 10))},
    {"question_id": 73000, "image_id": 73, "answer_type": "yes/no", "answers": ten(("yes", 7), ("no", 3))},
]


def load(tmp_path, questions=QUESTIONS, annotations=ANNOTATIONS):
    data, answers = tmp_path / "questions.json", tmp_path / "annotations.json"
    data.write_text(json.dumps(questions))
    answers.write_text(json.dumps({"data_subtype": "val2014", "annotations": annotations}))
    files = BenchFiles(data=data, annotations=answers)
    return Vqa().load(files), files


def load_lines(tmp_path, rows):
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Vqa().load(BenchFiles(data=data))


def scored(questions, answers):
    rows = [Row(name, text, "") for name, text in answers.items()]
    sheet = Sheet(None, rows)
    return Vqa().score(questions.questions, join(questions.questions, sheet).sheet, BenchFiles())


def test_official_files_by_hand(tmp_path):
    questions, _ = load(tmp_path)
    assert (questions.official, questions.whole, questions.problems) == (214_354, False, [])
    assert questions.questions[0].image == "COCO_val2014_000000000042.jpg"
    outcomes = scored(questions, {"42000": "Red.", "42001": "Two", "73000": "No"})
    found = {name: measure.value for name, measure in measures(outcomes, Vqa.names).items()}
    assert found == pytest.approx(
        {"accuracy": 100 * 2.5 / 3, "yes/no": 90, "number": 100, "other": 60, "exact": 100}
    )
    assert [outcome.read for outcome in outcomes] == ["red", "2", "no"]


def test_wrong_and_empty_answers(tmp_path):
    outcomes = scored(load(tmp_path)[0], {"42000": "blue", "42001": " \n", "73000": "yes"})
    assert [outcome.sums["accuracy"] for outcome in outcomes] == [(0, 1), (0, 1), (1, 1)]
    assert [outcome.right for outcome in outcomes] == [False, False, True]
    assert [outcome.note for outcome in outcomes] == ["", "empty answer", ""]
    assert outcomes[1].read is None


def test_an_answer_of_articles_only_is_read(tmp_path):
    questions = load_lines(tmp_path, [{"question_id": 1, "image": "a.jpg", "text": "Letter?", "answer": "A"}])
    assert scored(questions, {"1": "a"})[0].right
    assert not scored(questions, {"1": ""})[0].right


def test_pictures_of_test_dev_are_those_of_test(tmp_path):
    data = tmp_path / "q.json"
    data.write_text(json.dumps({**QUESTIONS, "data_subtype": "test-dev2015"}))
    questions = Vqa().load(BenchFiles(data=data))
    assert questions.official == 107_394
    assert questions.questions[0].image == "COCO_test2015_000000000042.jpg"


def test_another_data_set_in_the_same_format_has_no_official_size(tmp_path):
    assert load(tmp_path, {**QUESTIONS, "info": {"version": "1.0"}})[0].official is None


def test_annotations_that_fit_badly_are_named(tmp_path):
    nine = {"question_id": 42001, "answers": ten(("2", 10))[:9]}
    other = {**ANNOTATIONS[2], "answers": ten(("no", 10))}
    unknown = {**ANNOTATIONS[0], "question_id": 5}
    annotations = [ANNOTATIONS[0], ANNOTATIONS[0], nine, ANNOTATIONS[2], other, unknown, {"answers": []}]
    questions, files = load(tmp_path, annotations=annotations)
    assert [question.id for question in questions.questions] == ["42000"]
    assert {(problem.place, problem.reason) for problem in questions.problems} == {
        (f"{files.annotations}: annotations[1]", "the same annotation twice; counted once"),
        (f"{files.annotations}: annotations[2]", "annotation has not ten answers"),
        (f"{files.annotations}: annotations[4]", "two different annotations of one id; none counted"),
        (f"{files.annotations}: id 5", "annotation of an unknown question"),
        (f"{files.annotations}: annotations[6]", "no annotation of VQA (question_id, answers)"),
        ("42001", "question without human answers"),
        ("73000", "question without human answers"),
    }


def test_annotations_of_another_split_are_refused(tmp_path):
    with pytest.raises(VistuneError, match="annotates none of the questions"):
        load(tmp_path, annotations=[{**ANNOTATIONS[0], "question_id": 5}])


def test_questions_that_fit_badly_are_named(tmp_path):
    rows = QUESTIONS["questions"]
    bad = [rows[0], rows[0], {**rows[1], "question": "How?"}, rows[1], {"question_id": 8}]
    questions, files = load(tmp_path, {**QUESTIONS, "questions": [*bad, rows[2]]})
    assert [question.id for question in questions.questions] == ["42000", "73000"]
    assert [problem.reason for problem in questions.problems] == [
        "the same question twice; counted once",
        "two different questions of one id; none counted",
        "no question of VQA (question_id, image_id, question)",
        "annotation of an unknown question",
    ]
    assert questions.problems[2].place == f"{files.data}: questions[4]"


def test_scoring_needs_human_answers_and_asking_does_not(tmp_path):
    rows = [
        {"question_id": 1, "image": "a.jpg", "text": "Colour?\nAnswer with one word.", "category": "default"}
    ]
    questions = load_lines(tmp_path, rows)
    assert questions.questions[0].text == "Colour?\nAnswer with one word."
    with pytest.raises(VistuneError, match="--annotations"):
        scored(questions, {"1": "red"})


def test_lines_hold_ten_answers_or_one(tmp_path):
    rows = [
        {"question_id": 1, "image": "a.jpg", "text": "Colour?", "answers": ["red"] * 2 + ["blue"] * 8},
        {"id": "b", "image": "b.jpg", "question": "Many?", "answer": "3", "answer_type": "number"},
        {"id": "c", "image": "b.jpg", "question": "Many?"},
        {"id": "d", "image": "b.jpg", "question": "Many?", "answer": 3},
    ]
    questions = load_lines(tmp_path, rows)
    assert questions.official is None
    assert [question.id for question in questions.questions] == ["1", "b"]
    assert [problem.reason for problem in questions.problems] == [
        "answers are not texts",
        "question without human answers",
    ]
    outcomes = scored(questions, {"1": "red", "b": "three"})
    assert [dict(outcome.sums) for outcome in outcomes] == [
        {"exact": (1, 1), "accuracy": (0.6, 1)},
        {"exact": (1, 1)},
    ]


def test_annotations_do_not_override_answers(tmp_path):
    data, answers = tmp_path / "q.jsonl", tmp_path / "a.json"
    data.write_text(json.dumps({"question_id": 42000, "image": "a.jpg", "text": "?", "answer": "x"}))
    answers.write_text(json.dumps({"annotations": ANNOTATIONS}))
    with pytest.raises(VistuneError, match="would override"):
        Vqa().load(BenchFiles(data=data, annotations=answers))


def test_files_without_questions_are_refused(tmp_path):
    with pytest.raises(VistuneError, match="--data"):
        Vqa().load(BenchFiles())
    with pytest.raises(VistuneError, match="cannot be read"):
        Vqa().load(BenchFiles(data=tmp_path / "none.json"))
    with pytest.raises(VistuneError, match="no question"):
        load(tmp_path, {"annotations": []})
    with pytest.raises(VistuneError, match="data_subtype"):
        load(tmp_path, {"questions": QUESTIONS["questions"]})


def test_llavas_answers_join_by_id(tmp_path):
    questions, _ = load(tmp_path)
    path = tmp_path / "answers.jsonl"
    rows = [{"question_id": 73000, "prompt": "Is it day?", "text": "Yes"}, {"question_id": 1, "text": "No"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = join(questions.questions, read_sheet(path))
    assert [row.id for row in answers.sheet.rows] == ["73000"]
    assert [problem.reason for problem in answers.problems].count("no answer") == 2
