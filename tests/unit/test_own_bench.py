"""Own data: what files may look like, what is refused, and exact match over kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED_DATA
from vistune.conversation import Conversation, ask, gpt, human, to_json
from vistune.data.records import write_records
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import Bench, BenchFiles
from vistune.evaluate.benches.own import BENCHES, OwnData
from vistune.evaluate.measure import measures
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Row, Sheet
from vistune.exact import exact_match
from vistune.question import Question, Questions

OWN: OwnData = BENCHES[0]
CHECKED_BY_MYPY: Bench = OWN


def load(tmp_path: Path, *rows: Any, ending: str = "jsonl") -> Questions:
    """Rows that are text are written as they are."""
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = tmp_path / f"questions.{ending}"
    path.write_text("\n".join(texts) if ending == "jsonl" else f"[{','.join(texts)}]", encoding="utf-8")
    return OWN.load(BenchFiles(data=path))


def score(questions: list[Question], answers: dict[str, str]) -> list[Outcome]:
    rows = [Row(name, text, "answers") for name, text in answers.items()]
    return OWN.score(questions, Sheet(Path("answers"), rows), BenchFiles())


def talk(name: str, picture: str | None, *pairs: tuple[str, str]) -> dict[str, Any]:
    turns = [human(*ask(pairs[0][0], picture)), gpt(pairs[0][1])]
    for question, answer in pairs[1:]:
        turns += [human(question), gpt(answer)]
    return to_json(Conversation(name, tuple(turns)))


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Two.", "Two.", True),
        ("two", "Two.", True),
        (" Two \n", "Two.", True),
        ("At  the top.", "At the top.", True),
        ("Two dogs.", "Two.", False),
        ("", "Two.", False),
        ("A cat and a dog.", "A dog and a cat.", False),
    ],
)
def test_exact_match_forgives_case_space_and_full_stop_only(answer: str, reference: str, right: bool) -> None:
    assert exact_match(answer, reference) is right


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_every_question_of_a_conversation_is_asked_alone(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"talks.{ending}"
    seen = talk(
        "7", "a.jpg", ("Is there a dog in the picture?", "Yes."), ("Why do dogs bark?", "Nobody knows.")
    )
    write_records(path, [seen, talk("8", None, ("Why?", "Because."))])
    found = OWN.load(BenchFiles(data=path))
    assert found.questions == [
        Question("7-0", "Is there a dog in the picture?", "a.jpg", ("Yes.",), "presence"),
        Question("7-1", "Why do dogs bark?", "a.jpg", ("Nobody knows.",), "other"),
        Question("8-0", "Why?", None, ("Because.",), "other"),
    ]
    assert found.problems == [] and found.official is None


def test_plain_rows_and_their_optional_fields(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        {"question": "How many?", "image": "a.jpg", "answer": 2},
        "",
        {"question": "Where?", "answers": ["Left.", "On the left."], "id": 12, "category": "place"},
        {"question": "Which?", "image": None, "answer": "a", "answers": ["a", "b"], "kind": "choice"},
    )
    assert found.questions == [
        Question("1", "How many?", "a.jpg", ("2",), "other"),
        Question("12", "Where?", None, ("Left.", "On the left."), "place"),
        Question("4", "Which?", None, ("a", "b"), "choice"),
    ]


def test_in_a_list_and_in_parquet_a_question_is_named_by_its_record(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"question": "Who?", "answer": "He.", "kind": None}]
    rows += [{"question": "What?", "answer": "It.", "kind": "x"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for found in (load(tmp_path, *rows, ending="json"), OWN.load(BenchFiles(data=tmp_path / "rows.parquet"))):
        assert [(q.id, q.text, q.kind) for q in found.questions] == [
            ("1", "Who?", "other"),
            ("2", "What?", "x"),
        ]


def test_any_reference_is_right_and_each_kind_is_a_measure(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        {"question": "Where?", "answers": ["Left.", "On the left."], "kind": "zone"},
        {"question": "How many dogs are there?", "answer": "Two."},
        {"question": "Is there a dog in the picture?", "answer": "Yes."},
        {"question": "Is there a cat in the picture?", "answer": "No."},
        {"question": "Why?", "answer": "So.", "kind": "art"},
    )
    outcomes = score(found.questions, {"1": "on the LEFT", "2": "Three.", "3": "yes", "4": "", "5": "So"})
    assert [o.right for o in outcomes] == [True, False, True, False, True]
    assert [o.read for o in outcomes] == ["on the LEFT", "Three.", "yes", None, "So"]
    assert outcomes[3].note == "empty answer" and outcomes[0].references == ("Left.", "On the left.")
    order = OWN.order(outcomes)
    assert order == ["presence", "count", "art", "zone", "all"]
    values = {name: (m.value, m.count, m.method) for name, m in measures(outcomes, order).items()}
    assert values == {
        "presence": (50, 2, "wilson"),
        "count": (0, 1, "wilson"),
        "art": (100, 1, "wilson"),
        "zone": (100, 1, "wilson"),
        "all": (60, 5, "wilson"),
    }
    assert [o.id for o in score(found.questions, {"5": "So", "2": "2"})] == ["2", "5"]


@pytest.mark.parametrize("answer", ["B", "red"])
def test_options_are_shown_with_letters_and_may_be_named_by_either(tmp_path: Path, answer: str) -> None:
    (question,) = load(
        tmp_path, {"question": "What colour?", "options": ["blue", "red"], "answer": answer}
    ).questions
    assert question.text == "What colour?\nOptions:\n(A) blue\n(B) red" and question.references == (
        "(B) red",
    )
    replies = [
        "B",
        "(B)",
        "b.",
        "Red",
        "(B) red.",
        "B. red",
        "B: red",
        "A",
        "(A) red",
        "A. blue",
        "blue",
        "BB",
    ]
    rights = [score([question], {question.id: reply})[0].right for reply in replies]
    assert rights == [True] * 7 + [False] * 5


MALFORMED = [
    ('{"question": "Why?", "answer": ', "not valid JSON", "column"),
    ('["Why?"]', "malformed record", "expected an object, found list"),
    ('{"text": "Why?"}', "malformed record", "expected `question`"),
    ('{"question": "Why?"}', "malformed record", "expected `answer` or `answers`"),
    ('{"question": "Why?", "answers": []}', "malformed record", "expected `answer` or `answers`"),
    ('{"question": "Why?", "answer": " "}', "malformed record", "`answer`: expected text, found ' '"),
    ('{"question": "Why?", "answer": true}', "malformed record", "`answer`: expected text, found True"),
    ('{"question": "Why?", "answers": [{"answer": "a"}]}', "malformed record", "`answers`: expected text"),
    ('{"question": "<image>\\nWhy?", "answer": "a"}', "malformed record", "leave `<image>` out"),
    ('{"question": "Why?", "answer": "a", "image": ["a.jpg", "b.jpg"]}', "malformed record", "`image`"),
    ('{"question": "Why?", "answer": "a", "image": ""}', "malformed record", "`image`: expected text"),
    ('{"question": "Why?", "answer": "a", "kind": "all"}', "malformed record", "cannot be a kind"),
    ('{"question": "Why?", "answer": "c", "options": ["a", "b"]}', "malformed record", "none of the options"),
    ('{"question": "Why?", "answer": "C", "options": ["a", "b"]}', "malformed record", "none of the options"),
    (
        json.dumps({"question": "Why?", "answer": "1", "options": list(range(27))}),
        "malformed record",
        "27 options",
    ),
    ('{"id": "9", "conversations": []}', "malformed record", "`conversations` is missing or empty"),
    (
        json.dumps(
            {
                "image": ["a.jpg", "b.jpg"],
                "conversations": [
                    {"from": "human", "value": "<image><image>\nSame?"},
                    {"from": "gpt", "value": "No."},
                ],
            }
        ),
        "malformed record",
        "2 pictures",
    ),
]


@pytest.mark.parametrize(("line", "reason", "detail"), MALFORMED)
def test_malformed_records_are_set_aside_with_their_line(
    tmp_path: Path, line: str, reason: str, detail: str
) -> None:
    found = load(tmp_path, {"question": "Why?", "answer": "So."}, line, {"question": "Who?", "answer": "He."})
    assert [q.id for q in found.questions] == ["1", "3"]
    (problem,) = found.problems
    assert problem.place == f"{tmp_path / 'questions.jsonl'}: line 2"
    assert problem.reason == reason and detail in problem.detail


def test_two_questions_with_one_id_are_refused_with_both_places(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer": "So."}
    with pytest.raises(VistuneError, match=r"line 3: the id '1' is taken by .*questions.jsonl: line 1\."):
        load(tmp_path, row, row, {**row, "id": 1})
    same = talk("7", "a.jpg", ("Why?", "So."))
    with pytest.raises(VistuneError, match=r"record 2: the id '7-0' is taken by .*record 1\."):
        load(tmp_path, same, same, ending="json")


def test_conversations_without_an_id_are_named_by_their_record(tmp_path: Path) -> None:
    nameless = {k: v for k, v in talk("", "a.jpg", ("Why?", "So.")).items() if k != "id"}
    assert [q.id for q in load(tmp_path, nameless, nameless).questions] == ["1-0", "2-0"]


def test_a_file_without_a_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VistuneError, match="holds no question"):
        load(tmp_path, ending="json")
    with pytest.raises(
        VistuneError, match=r"holds no question\. .*line 1: malformed record \(expected `ques"
    ):
        load(tmp_path, {"text": "Why?"})
    with pytest.raises(VistuneError, match="--data"):
        OWN.load(BenchFiles())
    with pytest.raises(VistuneError, match=r"ends in \.json"):
        OWN.load(BenchFiles(data=tmp_path / "questions.txt"))


def test_llavas_stage_one_file(tmp_path: Path) -> None:
    path = SHARED_DATA / "llava-pretrain-200" / "chat.json"
    if not path.is_file():
        pytest.skip("needs ../shared/data/llava-pretrain-200, which is not part of the repository")
    found = OWN.load(BenchFiles(data=path))
    assert len(found.questions) == 200 and found.problems == []
    assert all(q.image and q.kind == "other" and len(q.references) == 1 for q in found.questions)
    outcomes = score(found.questions, {q.id: q.references[0].upper() for q in found.questions[:50]})
    assert measures(outcomes, OWN.order(outcomes))["all"].value == 100
