"""POPE: reading yes or no, joining answers with questions, and the published figure."""

import json

import pytest

from tests.conftest import SHARED_DATA
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.pope import Pope
from vistune.evaluate.benches.yes_no import read_yes_no
from vistune.evaluate.measure import measures
from vistune.evaluate.sheet import Row, join, read_sheet

ASKED = [  # image, words, label
    ("a.jpg", "Is there a dog in the image?", "yes"),
    ("a.jpg", "Is there a cat in the image?", "no"),
    ("b.jpg", "Is there a dog in the image?", "yes"),
    ("b.jpg", "Is there a bus in the image?", "no"),
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labels(asked=ASKED, **more):
    return [
        {"question_id": number, "image": image, "text": text, "label": label, **more}
        for number, (image, text, label) in enumerate(asked, 1)
    ]


def loaded(tmp_path, rows):
    return Pope().load(BenchFiles(data=lines(tmp_path / "labels.json", rows)))


def joined(questions, tmp_path, rows):
    bench = Pope()
    sheet = read_sheet(lines(tmp_path / "answers.jsonl", rows))
    return join(questions.questions, sheet, lambda row: bench.key(questions.questions, row))


def outcomes_of(tmp_path, answers):
    questions = loaded(tmp_path, labels())
    rows = [{"id": number, "answer": answer} for number, answer in enumerate(answers, 1)]
    return Pope().score(questions.questions, joined(questions, tmp_path, rows).sheet, BenchFiles())


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("YES!", "yes"),
        ("No", "no"),
        ("No, there is none.", "no"),
        ("NO", "no"),
        ("There is not a dog.", "no"),
        ("There isn't a dog.", "no"),
        ("There isn’t a dog.", "no"),
        ("Yes, there is no doubt.", "no"),  # as POPE's own rule reads it
        ("Yes, there is. It is not small.", "yes"),
        ("No\nYes", "no"),
        ("**Yes**", "yes"),
        ("1. Yes", "yes"),
        ("There is a dog.", None),
        ("There is a dog. Yes.", None),
        ("I know nothing of the yesterday of this picture", None),
        ("", None),
        (" .\n", None),
    ],
)
def test_the_first_sentence_decides(answer, read):
    assert read_yes_no(answer) == read


def test_published_answers_give_the_published_figure():
    folder = SHARED_DATA / "pope"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/pope, which is not part of the repository")
    bench, files = Pope(), BenchFiles(data=folder / "labels_popular.jsonl")
    questions = bench.load(files)
    sheet = read_sheet(folder / "answers_llava-v1.5-13b_popular.jsonl")
    answers = join(questions.questions, sheet, lambda row: bench.key(questions.questions, row))
    assert questions.whole and not questions.problems and not answers.problems
    found = measures(bench.score(questions.questions, answers.sheet, files), bench.names)
    assert {name: round(measure.value, 2) for name, measure in found.items()} == {
        "accuracy": 87.43,
        "precision": 95.25,
        "recall": 78.80,
        "f1": 86.25,
        "yes_share": 41.37,
    }


def test_measures_by_hand(tmp_path):
    outcomes = outcomes_of(tmp_path, ["Yes", "Yes", "No", "No"])  # a hit, a false alarm, a miss, a rejection
    values = {name: measure.value for name, measure in measures(outcomes, Pope.names).items()}
    assert values == {"accuracy": 50, "precision": 50, "recall": 50, "f1": 50, "yes_share": 50}
    assert [outcome.right for outcome in outcomes] == [True, False, False, True]


def test_an_unread_answer_is_wrong_and_says_neither(tmp_path):
    outcomes = outcomes_of(tmp_path, ["A dog.", "", "Yes", "No"])
    found = measures(outcomes, Pope.names)
    assert (found["accuracy"].value, found["yes_share"].value) == (50, 25)
    assert (found["recall"].value, found["precision"].value, found["precision"].count) == (50, 100, 1)
    assert found["f1"].value == pytest.approx(100 * 2 / 3)  # one hit, one miss
    assert [outcome.read for outcome in outcomes] == [None, None, "yes", "no"]
    assert "first sentence" in outcomes[0].note and outcomes[1].note == "empty answer"


@pytest.mark.parametrize("words", ["question", "prompt", "text"])
@pytest.mark.parametrize("asked", ["{}", "<image>\n{}\nAnswer in one word.", "{} Please say yes or no."])
def test_answers_join_by_picture_and_words(tmp_path, words, asked):
    questions = loaded(tmp_path, labels())
    rows = [
        {"question_id": 70 + n, "image": f"val2014/{image}", words: asked.format(text), "answer": label}
        for n, (image, text, label) in enumerate(reversed(ASKED))
    ]
    answers = joined(questions, tmp_path, rows)
    assert not answers.problems
    assert [(row.id, row.text) for row in answers.sheet.rows] == [
        (str(n), label) for n, (_, _, label) in enumerate(ASKED, 1)
    ]


def test_an_instruction_below_a_question_without_its_mark_is_no_part_of_it(tmp_path):
    questions = loaded(tmp_path, labels([("a.jpg", "Say whether there is a dog", "yes")]))
    rows = [{"id": 9, "image": "a.jpg", "question": "Say whether there is a dog\nBriefly.", "answer": "No"}]
    assert not joined(questions, tmp_path, rows).problems


def test_text_is_the_answer_where_there_is_no_other(tmp_path):
    questions = loaded(tmp_path, labels())
    rows = [
        {"question_id": 2, "prompt": "is there a CAT in the image?\nAnswer briefly.", "text": "No"},
        {"question_id": 3, "image": "b.jpg", "text": "Yes"},
        {"question_id": 4, "text": "No"},
    ]
    answers = joined(questions, tmp_path, rows)
    assert [(row.id, row.text) for row in answers.sheet.rows] == [("2", "No"), ("3", "Yes"), ("4", "No")]


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "question": "Is there a cat in the image?", "answer": "No"},  # words of question 2
        {"id": 1, "image": "b.jpg", "answer": "Yes"},  # picture of question 3
        {"id": 1, "image": "a.jpg", "question": "Is there a bus in the image?", "answer": "No"},
        {"id": 9, "answer": "No"},
        {"id": 9, "question": "Is there a cat in the image?", "answer": "No"},  # of which picture?
    ],
)
def test_an_id_that_contradicts_its_row_joins_nothing(tmp_path, row):
    questions = loaded(tmp_path, labels())
    answers = joined(questions, tmp_path, [row])
    assert not answers.sheet.rows
    assert answers.problems[0].reason == "answers no question of this benchmark"


def test_splits_in_one_file_keep_apart(tmp_path):
    rows = labels(category="Popular") + labels(category="random")
    questions = loaded(tmp_path, rows)
    assert questions.official == 6000
    assert [question.id for question in questions.questions][3:5] == ["popular-4", "random-1"]
    answers = [
        {"question_id": 7, "category": "random", "image": "a.jpg", "question": ASKED[0][1], "answer": "yes"},
        {"question_id": 2, "category": "popular", "answer": "no"},
        {"question_id": 8, "image": "a.jpg", "question": ASKED[0][1], "answer": "no"},  # of which split?
    ]
    found = joined(questions, tmp_path, answers)
    assert [row.id for row in found.sheet.rows] == ["popular-2", "random-1"]
    outcomes = Pope().score(questions.questions, found.sheet, BenchFiles())
    assert measures(outcomes, Pope.names)["f1_random"].value == 100


def test_our_own_answers_of_several_splits_join(tmp_path):
    questions = loaded(tmp_path, labels(category="popular") + labels(category="random"))
    rows = [
        {"id": q.id, "image": q.image, "question": q.text, "kind": q.kind, "answer": "yes"}
        for q in questions.questions
    ]
    answers = joined(questions, tmp_path, rows)
    assert not answers.problems and len(answers.sheet.rows) == 8


def test_a_file_of_several_splits_that_does_not_name_them_is_refused(tmp_path):
    other = [("c.jpg", "Is there a tie in the image?", "no")]
    with pytest.raises(VistuneError, match=r"line 5: id 1 is another question's: .*line 1.*category"):
        loaded(tmp_path, labels() + labels(other))


def test_a_part_of_the_benchmark_is_not_the_whole(tmp_path):
    assert not loaded(tmp_path, labels()).whole
    old_random = [(f"{n}.jpg", "Is there a dog in the image?", "yes") for n in range(2910)]
    assert loaded(tmp_path, labels(old_random)).whole  # as it was first published
    assert not loaded(tmp_path, labels(old_random, category="popular")).whole


def test_bad_labels_are_set_aside_with_their_place(tmp_path):
    path = tmp_path / "labels.json"
    good = labels()
    bad = [{**good[1], "label": "perhaps"}, {"question_id": 3, "image": "a.jpg"}, good[0], [1]]
    path.write_text("\n".join(map(json.dumps, [good[0], *bad])) + "\n{\n")
    questions = Pope().load(BenchFiles(data=path))
    assert [question.id for question in questions.questions] == ["1"]
    assert [problem.reason for problem in questions.problems] == [
        "label is neither yes nor no",
        "no label of POPE (question_id, image, text, label)",
        "the same question twice; counted once",
        "no label of POPE (question_id, image, text, label)",
        "not valid JSON",
    ]
    assert [problem.place for problem in questions.problems] == [f"{path}: line {n}" for n in range(2, 7)]


def test_files_without_a_label_are_refused(tmp_path):
    with pytest.raises(VistuneError, match="--data"):
        Pope().load(BenchFiles())
    with pytest.raises(VistuneError, match="cannot be read"):
        Pope().load(BenchFiles(data=tmp_path / "none.json"))
    with pytest.raises(VistuneError, match=r"no label of POPE.*First problem: .*line 1"):
        loaded(tmp_path, [{"question_id": 1, "text": "Yes"}])


def test_an_index_is_made_anew_for_other_questions(tmp_path):
    bench = Pope()
    first = loaded(tmp_path, labels(ASKED[:1])).questions
    other = loaded(tmp_path, labels(ASKED[1:2])).questions
    row = Row("77", "No", "", {"image": "a.jpg", "question": ASKED[1][1], "answer": "No"})
    assert [bench.key(first, row), bench.key(other, row), bench.key(first, row)] == [None, "1", None]
