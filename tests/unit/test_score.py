"""`vistune score`: what is counted, what is refused, and what is never called a score."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED_DATA
from vistune.errors import Problem, VistuneError
from vistune.evaluate import benches
from vistune.evaluate.benches import registry
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.registry import MODULES, find_bench
from vistune.evaluate.match import OTHER_WORDS
from vistune.evaluate.outcome import Outcome, read_outcomes
from vistune.evaluate.published import published_rows
from vistune.evaluate.score import run_score, score_files, score_outcomes, to_json
from vistune.evaluate.sheet import Sheet, read_sheet
from vistune.evaluate.table import render, score_parts
from vistune.question import Question, Questions

LETTERS = ("cat", "dog", "cow", "hen")


class Animals:
    """Four questions, of which two are of farms; the answer is the question's last word."""

    name, title, headline, most = "animals", "Animals", "all", 8
    takes = frozenset({"data", "split"})
    names: tuple[str, ...] = ("farm", "all")
    lower_is_better: frozenset[str] = frozenset()
    neither_is_better: frozenset[str] = frozenset()
    judged = False

    def load(self, files: BenchFiles) -> Questions:
        if files.data is None:
            raise VistuneError("animals needs --data FILE.")
        kinds = {"cow": "farm", "hen": "farm"}
        questions = [
            Question(str(n), f"Say {word}", f"{word}.jpg", (word,), kinds.get(word, "home"))
            for n, word in enumerate(files.data.read_text().split(), 1)
        ]
        return Questions(questions, [], official=4)

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        known = {question.id: question for question in questions}
        return [_outcome(known[row.id], row.text) for row in sheet.rows]


def _outcome(question: Question, answer: str) -> Outcome:
    right = answer == question.references[0]
    sums = {name: (float(right), 1.0) for name in ("all", question.kind) if name in ("all", "farm")}
    note = "" if answer else "empty answer"
    return Outcome(
        question.id, question.text, answer, sums, question.image, question.references, question.kind,
        answer or None, right, note,
    )  # fmt: skip


@pytest.fixture
def animals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BenchFiles:
    bench = Animals()
    monkeypatch.setattr("vistune.evaluate.score.find_bench", lambda name: bench)
    data = tmp_path / "animals.txt"
    data.write_text(" ".join(LETTERS))
    return BenchFiles(data=data)


def write_answers(path: Path, answers: Mapping[str, str], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"id": name, "answer": answer, **more}) + "\n" for name, answer in answers.items()]
    path.write_text("".join(rows), encoding="utf-8")
    return path


ALL_BUT_ONE_RIGHT = {"1": "cat", "2": "dog", "3": "cow", "4": "pig"}


# What is counted


def test_every_question_answered_is_a_score(animals: BenchFiles, tmp_path: Path) -> None:
    (run,) = score_files("animals", [write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT)], animals)
    content = run.to_json()
    assert run.complete and run.shortfall() == ""
    assert content["scores"] == {"farm": 50.0, "all": 75.0}
    assert list(content["scores"]) == ["farm", "all"] and content["counts"] == {"farm": 2, "all": 4}
    low, high = content["intervals"]["all"]
    assert 0 < low < 75 < high < 100
    assert (content["complete"], content["unread"], content["set_aside"]) == (True, 0, {})
    assert "scores_of_answered" not in content and content["headline"] == "all"


def test_fewer_questions_are_never_called_a_score(
    animals: BenchFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {"1": "cat", "2": "", "99": "cat"})
    (run,) = run_score("animals", [answers], animals, json_file=tmp_path / "new" / "scores.json")
    content = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert "scores" not in content and content["scores_of_answered"] == {"all": 50.0}
    assert content["complete"] is False and content["unread"] == 1
    assert content["set_aside"] == {"no answer": 2, "answers no question of this benchmark": 1}
    assert [question.id for question in run.missing] == ["3", "4"]
    shown = capsys.readouterr().out
    assert "2 of Animals's 4 questions: not its score" in shown
    assert "1 x empty answer" in shown and "2 x no answer" in shown and "a.jsonl:3" in shown


def test_a_data_file_that_lacks_questions_is_not_the_benchmark(animals: BenchFiles, tmp_path: Path) -> None:
    small = tmp_path / "small.txt"
    small.write_text("cat dog")
    answers = write_answers(tmp_path / "a.jsonl", {"1": "cat", "2": "dog"})
    (run,) = score_files("animals", [answers], BenchFiles(data=small))
    assert not run.missing and not run.complete
    assert run.shortfall() == "2 of Animals's 4 questions: not its score"


def test_more_questions_than_were_published_are_not_its_score(animals: BenchFiles, tmp_path: Path) -> None:
    animals.data.write_text("cat dog cow hen cat")  # type: ignore[union-attr]
    answers = write_answers(tmp_path / "a.jsonl", {**ALL_BUT_ONE_RIGHT, "5": "cat"})
    (run,) = score_files("animals", [answers], animals)
    assert run.shortfall() == "5 questions, and Animals has 4: not its score"


# Whose answers they are


def test_answers_of_another_split_are_refused_by_name(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {f"train-{n}": "cat" for n in range(5)})
    with pytest.raises(
        VistuneError, match=r"none of its 5 answers .* train-0, train-1, train-2, …; .* 1, 2, 3"
    ):
        score_files("animals", [answers], animals)


def test_answers_to_other_questions_of_the_same_ids_are_refused(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT, question="Say ox")
    with pytest.raises(VistuneError, match="another split"):
        score_files("animals", [answers], animals)


def test_one_answer_to_another_question_is_set_aside(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {"1": "cat"}, question="SAY  cat\nin one word")
    with open(answers, "a") as file:
        file.write(json.dumps({"id": "2", "answer": "dog", "question": "Say ox"}) + "\n")
    (run,) = score_files("animals", [answers], animals)
    assert [outcome.id for outcome in run.outcomes] == ["1"]
    assert Problem(f"{answers}:2", OTHER_WORDS, "id 2: Say ox") in run.problems
    assert [question.id for question in run.missing] == ["2", "3", "4"]


def test_contradicting_answers_alone_say_what_they_are(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {"1": "cat"})
    with open(answers, "a") as file:
        file.write(json.dumps({"id": "1", "answer": "dog"}) + "\n")
    with pytest.raises(VistuneError, match="two different answers"):
        score_files("animals", [answers], animals)


def test_a_benchmarks_own_key_decides(animals: BenchFiles, tmp_path: Path) -> None:
    class Keyed(Animals):
        def key(self, questions: Sequence[Question], row: Any) -> str | None:
            return next((q.id for q in questions if q.image == row.raw.get("image")), None)

    answers = write_answers(tmp_path / "a.jsonl", {"x": "hen"}, image="hen.jpg")
    bench = Keyed()
    run = score_outcomes(bench, bench.load(animals), read_sheet(answers), animals)
    assert [(outcome.id, outcome.right) for outcome in run.outcomes] == [("4", True)]


# Where the benchmark's files are


def test_the_files_the_answers_were_made_with_are_found(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "run" / "answers.jsonl", ALL_BUT_ONE_RIGHT)
    made = {"model": "m", "files": {"data": str(animals.data), "split": "test", "stored_indices": "False"}}
    (answers.parent / "evaluation.json").write_text(json.dumps(made))
    (run,) = score_files("animals", [answers], BenchFiles())
    assert run.complete and run.to_json()["made"] == made


def test_without_any_file_the_benchmark_says_what_it_needs(animals: BenchFiles, tmp_path: Path) -> None:
    with pytest.raises(VistuneError, match="animals needs --data"):
        score_files("animals", [write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT)], BenchFiles())


def test_an_answers_file_may_hold_the_questions_itself(animals: BenchFiles, tmp_path: Path) -> None:
    class Known(Animals):
        def load_from(self, sheet: Sheet, files: BenchFiles) -> Questions:
            return Questions([Question(row.id, "", references=("cat",)) for row in sheet.rows], [], 4)

    import vistune.evaluate.score as score

    answers = write_answers(tmp_path / "a.jsonl", {"1": "cat"})
    run = score._score_file(Known(), read_sheet(answers), BenchFiles(), {})
    assert run.measures["all"].value == 100 and not run.complete


# What is refused


def test_settings_that_would_be_ignored_are_refused(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT)
    with pytest.raises(VistuneError, match="--captions would be ignored"):
        score_files("animals", [answers], replace(animals, captions=tmp_path))
    with pytest.raises(VistuneError, match="--images would be ignored"):
        run_score("animals", [answers], animals, images=tmp_path)
    with pytest.raises(VistuneError, match="given twice"):
        score_files("animals", [answers, answers], animals)


def test_a_used_folder_is_left_alone(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT)
    with pytest.raises(VistuneError, match="not an empty folder"):
        run_score("animals", [answers], animals, out=tmp_path)


# What is written


def test_a_folder_holds_scores_outcomes_and_what_was_set_aside(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {"1": "cat", "7": "x"})
    (run,) = run_score("animals", [answers], animals, out=tmp_path / "out")
    assert read_outcomes(tmp_path / "out" / "outcomes.jsonl") == run.outcomes
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == run.to_json()
    lines = (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [asdict(problem) for problem in run.problems]
    assert len(lines) == 4


def test_the_blind_answers_are_told_beside(animals: BenchFiles, tmp_path: Path) -> None:
    (run,) = score_files("animals", [write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT)], animals)
    (blind,) = score_files("animals", [write_answers(tmp_path / "b.jsonl", {"1": "cat", "2": "x"})], animals)
    run.write(tmp_path / "out", blind)
    content = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert content["scores"]["all"] == 75 and content["blind"]["scores_of_answered"] == {"all": 50.0}
    assert len(read_outcomes(tmp_path / "out" / "outcomes_blind.jsonl")) == 2
    assert "without pictures" in render(score_parts([run], [], blind))


def test_several_runs_are_told_with_mean_and_spread(animals: BenchFiles, tmp_path: Path) -> None:
    paths = [
        write_answers(tmp_path / f"{n}.jsonl", {**ALL_BUT_ONE_RIGHT, **changed})
        for n, changed in enumerate(({}, {"4": "hen"}))
    ]
    runs = run_score("animals", paths, animals, out=tmp_path / "out", json_file=tmp_path / "s.json")
    content = json.loads((tmp_path / "s.json").read_text())
    assert content == json.loads((tmp_path / "out" / "scores.json").read_text()) == to_json(runs)
    assert content["scores"] == {"farm": 75.0, "all": 87.5}
    assert content["deviation"]["all"] == pytest.approx(17.6777, abs=1e-3)
    assert [row["scores"]["all"] for row in content["runs"]] == [75, 100]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"1", "2", "report.html"}
    assert "±17.68" in render(score_parts(runs, []))


def test_one_partial_run_makes_the_mean_partial(animals: BenchFiles, tmp_path: Path) -> None:
    paths = [
        write_answers(tmp_path / "1.jsonl", ALL_BUT_ONE_RIGHT),
        write_answers(tmp_path / "2.jsonl", {"1": "cat"}),
    ]
    content = to_json(score_files("animals", paths, animals))
    assert "scores" not in content and content["complete"] is False


def test_what_a_model_wrote_cannot_paint_the_terminal(animals: BenchFiles, tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "a.jsonl", {**ALL_BUT_ONE_RIGHT, "4": "[red]\x1b[31m"})
    (run,) = score_files("animals", [answers], animals)
    unread = replace(run, outcomes=[replace(outcome, read=None) for outcome in run.outcomes[3:]])
    shown = render(score_parts([unread], []))
    assert "\x1b" not in shown and '4: "[red]�[31m"' in shown


# The benchmarks and what is published of them


def test_every_benchmark_is_found_where_it_is_said_to_be() -> None:
    found = {}
    for module in pkgutil.iter_modules(benches.__path__):
        loaded = importlib.import_module(f"{benches.__name__}.{module.name}")
        found |= {bench.name: module.name for bench in getattr(loaded, "BENCHES", ())}
    assert found == MODULES
    assert [find_bench(name).name for name in MODULES] == list(MODULES)


@pytest.mark.parametrize(
    ("typed", "meant"), [("ScienceQA", "scienceqa"), ("llava_bench_wild", "llava-bench-wild")]
)
def test_an_unknown_name_is_refused_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(VistuneError, match=f"Did you mean {meant}"):
        find_bench(typed)


def test_an_unlike_name_is_refused_with_all() -> None:
    with pytest.raises(VistuneError, match=r"xyzzy: no such benchmark\. There are scienceqa"):
        registry.find_bench("xyzzy")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("own", "vqa", "chair")])
def test_published_rows_are_of_measures_that_the_benchmark_has(name: str) -> None:
    names = find_bench(name).names
    rows = published_rows(name, names)
    assert rows and all(set(row.scores) <= set(names) and row.source for row in rows)
    assert all(0 < score < 100 for row in rows for score in row.scores.values())


def test_published_figures_are_told_as_they_were_published() -> None:
    rows = {row.model: row for row in published_rows("scienceqa", find_bench("scienceqa").names)}
    assert len(rows) == 11 and rows["LLaVA"].cell("G7-12") == "90.90" and rows["LLaVA"].cell("NO") == "90.66"
    assert rows["LLaVA, 7B"].cell("NAT") == "" and rows["LLaVA, 7B"].cell("Avg") == "89.84"
    wild = {row.model: row for row in published_rows("llava-bench-wild", ("all",))}
    assert wild["LLaVA-1.5 13B"].cell("all") == "72.5"


def test_a_split_that_is_named_takes_the_published_figure() -> None:
    assert [set(row.scores) for row in published_rows("pope", ("f1",))] == [{"f1"}]
    assert [set(row.scores) for row in published_rows("pope", ("f1", "f1_popular"))] == [{"f1_popular"}]


def test_scoring_loads_nothing_heavy() -> None:
    modules = "vistune.evaluate.score, vistune.evaluate.table, vistune.evaluate.report.page"
    code = (
        f"import sys, {modules}\n"
        "from vistune.evaluate.benches.registry import MODULES, find_bench\n"
        "list(map(find_bench, MODULES))\n"
        "sys.exit(bool({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Real answers that nobody here wrote


def test_llavas_published_answers_give_the_papers_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SHARED_DATA / "scienceqa"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/scienceqa, which is not part of the repository")
    files = BenchFiles(data=folder / "test_problems.json", stored_indices=True)
    run_score("scienceqa", [folder / "llava_13b_v0_predictions.json"], files, json_file=tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())["scores"]
    rows = {row.model: row for row in published_rows("scienceqa", found)}
    assert {name: round(value, 2) for name, value in found.items()} == rows["LLaVA"].scores
    assert "3247" in capsys.readouterr().out


def test_three_judging_runs_give_the_published_mean(tmp_path: Path) -> None:
    folder = SHARED_DATA / "llava-bench-wild"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/llava-bench-wild, which is not part of the repository")
    reviews = sorted(folder.glob("reviews_*.jsonl"))
    content = to_json(score_files("llava-bench-wild", reviews, BenchFiles(data=folder / "questions.jsonl")))
    assert content["complete"] and content["scores"]["all"] == pytest.approx(72.5, abs=0.05)
    assert [round(row["scores"]["all"], 1) for row in content["runs"]] == [72.8, 72.7, 72.1]
    low, high = content["intervals"]["all"]
    assert 60 < low < 72.5 < high < 85 and content["counts"]["all"] == 60


def test_a_review_without_scores_leaves_less_than_the_benchmark(tmp_path: Path) -> None:
    bench = find_bench("llava-bench-wild")
    reviews = [{"question_id": n, "category": "detail", "content": "8 6"} for n in range(60)]
    rows = [*reviews[:-1], {**reviews[-1], "content": "Both are good: 8 6"}]
    for name, lines in (("whole", reviews), ("part", rows)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    whole, part = score_files(bench.name, [tmp_path / "whole", tmp_path / "part"], BenchFiles())
    assert whole.complete and whole.to_json()["scores"]["all"] == 75
    assert part.shortfall() == "59 of LLaVA-Bench (In-the-Wild)'s 60 questions: not its score"
    assert part.to_json()["scores_of_answered"]["all"] == 75 and "scores" not in part.to_json()
    assert '59: "Both are good: 8 6"' in render(score_parts([part], []))


def test_remarks_are_grouped_by_what_they_say_before_a_colon(animals: BenchFiles, tmp_path: Path) -> None:
    (run,) = score_files("animals", [write_answers(tmp_path / "a.jsonl", ALL_BUT_ONE_RIGHT)], animals)
    noted = [replace(outcome, note=f"invented: {outcome.answer}") for outcome in run.outcomes[:2]]
    shown = render(score_parts([replace(run, outcomes=[*noted, *run.outcomes[2:]])], []))
    assert "2 x invented (1: cat; 2: dog)" in shown
