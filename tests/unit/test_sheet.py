"""Answer sheets: every published form is read, and joined by id with nothing silently dropped."""

import json

import pytest

from vistune.errors import VistuneError
from vistune.evaluate.sheet import join, read_sheet
from vistune.question import Question

QUESTIONS = [Question("1", "Is there a dog?"), Question("2", "Is there a cat?")]


def sheet_of(tmp_path, text):
    path = tmp_path / "answers"
    path.write_text(text, encoding="utf-8")
    return read_sheet(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "1", "answer": "Yes"}\n\n{"id": "2", "answer": ""}\n',
        '{"question_id": 1, "prompt": "Is", "text": "Yes"}\n{"question_id": 2, "prompt": "Is", "text": ""}',
        '{"question_id": 1, "content": "Yes"}\r\n{"question_id": 2, "content": ""}\r\n',
        '[{"question_id": 1, "answer": "Yes"}, {"question_id": 2, "answer": ""}]',
        '[{"image_id": 1, "caption": "Yes"},\n {"image_id": 2, "caption": ""}]',
        '{"outputs": {"1": "Yes", "2": ""}, "results": {"1": 0, "2": 1}}',
        '{\n  "1": "Yes",\n  "2": ""\n}',
    ],
)
def test_every_form_gives_the_same_answers(tmp_path, text):
    sheet = sheet_of(tmp_path, text)
    assert [(row.id, row.text) for row in sheet.rows] == [("1", "Yes"), ("2", "")]


def test_an_index_without_a_text_is_an_answer_too(tmp_path):
    sheet = sheet_of(tmp_path, '{"outputs": {"1": "A"}, "results": {"1": 0, "2": 1}}')
    assert [(row.id, row.text, row.raw["index"]) for row in sheet.rows] == [("1", "A", 0), ("2", "", 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"id": "1", "answer": "a"}\n{"id": "2", "ans', "answers:2: not JSON"),
        ('{"id": "1"}\n', "answers:1: expected one of id"),
        ('[{"id": "1", "answer": 3}]', r"answers: \[0\]: expected one of"),
        ('{"outputs": {"1": 3}}', "outputs\\['1'\\]: expected text"),
        ('{"outputs": {"1": "A", "1": "B"}}', "'1' stands there twice"),
        ("", "holds no answers"),
        ("[]", "holds no answers"),
    ],
)
def test_what_is_no_answer_is_told_with_its_place(tmp_path, text, told):
    with pytest.raises(VistuneError, match=told):
        sheet_of(tmp_path, text)


def test_missing_unknown_and_double_answers_are_named_and_not_counted(tmp_path):
    rows = [(1, "Yes"), (1, "Yes"), (7, "No"), (2, "Yes"), (2, "No")]
    text = "".join(json.dumps({"id": number, "answer": answer}) + "\n" for number, answer in rows)
    joined = join(QUESTIONS, sheet_of(tmp_path, text))
    assert [(row.id, row.text) for row in joined.sheet.rows] == [("1", "Yes")]
    assert [question.id for question in joined.missing] == ["2"]
    assert [problem.reason.split(";")[0] for problem in joined.problems] == [
        "the same answer twice",
        "answers no question of this benchmark",
        "two different answers to one question",
        "no answer",
    ]


def test_rows_come_in_the_order_of_the_questions(tmp_path):
    joined = join(QUESTIONS, sheet_of(tmp_path, '{"id": 2, "answer": "b"}\n{"id": 1, "answer": "a"}'))
    assert [row.text for row in joined.sheet.rows] == ["a", "b"] and not joined.missing


def test_how_answers_were_made_is_read_from_beside_them(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"template": "v0"}')
    assert sheet_of(tmp_path, '{"id": 1, "answer": "a"}').made == {"template": "v0"}
    assert sheet_of(tmp_path, '{"outputs": {"1": "a"}, "made": {"rule": "judge"}}').made == {"rule": "judge"}
    (tmp_path / "evaluation.json").write_text('{"templ')
    with pytest.raises(VistuneError, match=r"evaluation\.json: not JSON"):
        sheet_of(tmp_path, '{"id": 1, "answer": "a"}')
