"""`vistune compare`: the statistics against values worked out otherwise, bad folders, and the page."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import SHARED_DATA
from vistune.errors import VistuneError
from vistune.evaluate.compare import run as run_module
from vistune.evaluate.compare.differing import NOT_SCORED, SAME, Pair, choose, pair_up
from vistune.evaluate.compare.page import kind_rows, plot, plot_extent
from vistune.evaluate.compare.paired import NO_DIFFERENCE, differences, holm, mcnemar, swap_test
from vistune.evaluate.compare.run import compare, compare_and_tell
from vistune.evaluate.compare.runs import short_names
from vistune.evaluate.compare.settings import ABSENT, differing
from vistune.evaluate.compare.table import _short
from vistune.evaluate.compare.words import compare_words
from vistune.evaluate.outcome import Outcome, write_outcomes

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>"


def answered(name: Any, right: bool, **changes: Any) -> Outcome:
    told = {"image": f"{name}.jpg", "references": ("yes",), "kind": "object", "read": "yes"}
    sums = changes.pop("sums", {"accuracy": (float(right), 1.0)})
    answer = changes.pop("answer", "Yes." if right else "No.")
    return Outcome(str(name), f"Is {name} there?", answer, sums, right=right, **{**told, **changes})


def graded(name: Any, value: float, under: float = 10, **changes: Any) -> Outcome:
    return Outcome(str(name), "Describe it.", "An answer.", {"all": (value, under)}, read="10", **changes)


def folder(path: Path, outcomes: list[Outcome], **changes: Any) -> Path:
    """A folder as scoring leaves it."""
    path.mkdir(parents=True)
    write_outcomes(path / "outcomes.jsonl", outcomes)
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.sums)
    scores = {
        "bench": "own",
        "title": "Own data",
        "questions": len(outcomes),
        "scores": dict.fromkeys(names, 0.0),
    }
    made = {"template": "v1", "decoding": {"max_new_tokens": 64}}
    (path / "scores.json").write_text(json.dumps({**scores, "made": made, "vistune": "1", **changes}))
    return path


def crossed(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[Outcome], list[Outcome]]:
    sides = (
        [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False,) * 2] * neither
    )
    return (
        [answered(n, a) for n, (a, _) in enumerate(sides)],
        [answered(n, b) for n, (_, b) in enumerate(sides)],
    )


# Statistics


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (7, 7, 1.0),
        (0, 5, 2 / 32),
        (1, 9, 2 * (1 + 10) / 1024),
        (5, 15, 2 * sum(math.comb(20, k) for k in range(6)) / 2**20),
        (15, 5, 2 * sum(math.comb(20, k) for k in range(6)) / 2**20),
        (3, 4, 1.0),
    ],
)
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar(only_a, only_b) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_tosses_nears_the_normal() -> None:
    only_a, only_b = 49_600, 50_400
    z = (abs(only_b - only_a) - 1) / math.sqrt(only_a + only_b)  # with correction for continuity
    assert mcnemar(only_a, only_b) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.001, 0.02, 0.5]) == pytest.approx([1.0, 0.004, 0.06, 1.0])
    assert holm([]) == [] and holm([0.2]) == [0.2]


def test_swaps_agree_with_all_swaps() -> None:
    generator = np.random.default_rng(5)
    tops, unders = generator.uniform(1, 10, (9, 2)), generator.uniform(8, 10, (9, 2))
    tops[:, 1] += 1.5

    def apart(swapped: tuple[bool, ...]) -> float:
        picked = np.array([[1, 0] if swap else [0, 1] for swap in swapped])
        top, under = (np.take_along_axis(x, picked, 1).sum(0) for x in (tops, unders))
        return float(abs(top[1] / under[1] - top[0] / under[0]))

    all_swaps = [apart(swapped) for swapped in itertools.product((False, True), repeat=9)]
    exact = np.mean([value >= all_swaps[0] - 1e-12 for value in all_swaps])
    assert 0.01 < exact < 0.5
    assert swap_test(tops, unders) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999))


def test_the_interval_of_shares_is_the_one_of_paired_counts() -> None:
    both, only_a, only_b, neither = 500, 60, 100, 340
    a, b = crossed(both, only_a, only_b, neither)
    (found,), _ = differences(a, b, ["accuracy"])
    error = 100 * math.sqrt(only_a + only_b - (only_b - only_a) ** 2 / 1000) / 1000
    assert (found.a, found.b, found.difference) == pytest.approx((56.0, 60.0, 4.0))
    assert found.low == pytest.approx(4 - 1.96 * error, abs=0.25)
    assert found.high == pytest.approx(4 + 1.96 * error, abs=0.25)
    assert (found.test, found.only_a, found.only_b, found.count) == ("mcnemar", 60, 100, 1000)
    assert found.verdict == "B is better" and found.p == mcnemar(60, 100) == found.corrected
    (back,), _ = differences(b, a, ["accuracy"])
    assert back.verdict == "A is better" and back.difference == -found.difference
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=0.25)


def test_ratios_are_of_sums_and_lower_may_be_better() -> None:
    a = [graded(n, 8.0, under=(10, 9, 8)[n % 3]) for n in range(60)]
    b = [graded(n, 9.0, under=(10, 9, 8)[n % 3]) for n in range(60)]
    (found,), _ = differences(a, b, ["all"])
    assert (found.a, found.b) == pytest.approx((100 * 8 / 9, 100.0)), "not the mean of ratios"
    assert (found.test, found.only_a, found.verdict) == ("swap", None, "B is better")
    assert found.p == pytest.approx(1 / 10_000)
    (lower,), _ = differences(a, b, ["all"], lower=["all"])
    (neither,), _ = differences(a, b, ["all"], neutral=["all"])
    assert (lower.verdict, neither.verdict, neither.winner) == ("A is better", "they differ", None)


def test_precision_counts_other_questions_in_each_run_and_is_swapped() -> None:
    said = {
        True: {"precision": (1.0, 1.0)},
        False: {"precision": (0.0, 1.0)},
        None: {"precision": (0.0, 0.0)},
    }
    a = [answered(n, True, sums=said[[True, False, None][n % 3]]) for n in range(30)]
    b = [answered(n, True, sums=said[[True, None, None][n % 3]]) for n in range(30)]
    (found,), _ = differences(a, b, ["precision"])
    assert (found.a, found.b, found.test, found.count) == (50.0, 100.0, "swap", 20)


def test_many_measures_are_corrected_and_the_headline_is_not() -> None:
    names = ["Avg", "one", "two", "three"]
    rows = [{name: (float(n < 5), 1.0) for name in names} for n in range(40)]
    a = [answered(n, False, sums={name: (0.0, 1.0) for name in names}) for n in range(40)]
    a[39] = answered(39, False, sums={name: (1.0, 1.0) for name in names})
    rows[5] = rows[6] = rows[7] = {name: (1.0, 1.0) for name in names}
    b = [answered(n, True, sums=row) for n, row in enumerate(rows)]
    together, _ = differences(a, b, names)
    alone, _ = differences(a, b, names, headline="Avg")
    p = mcnemar(1, 8)
    assert [d.corrected for d in together] == pytest.approx([4 * p] * 4)
    assert [d.corrected for d in alone] == pytest.approx([p, 3 * p, 3 * p, 3 * p])
    assert [d.verdict for d in alone] == ["B is better"] + [NO_DIFFERENCE] * 3


def test_a_failed_review_leaves_the_question_out_of_both_runs() -> None:
    a = [graded(n, 8.0) for n in range(10)]
    b = [graded(n, 8.0) for n in range(9)] + [Outcome("9", "Describe it.", "?", {}, read=None)]
    a[9] = graded(9, 1.0)
    (found,), _ = differences(a, b, ["all"])
    assert (found.a, found.difference, found.count, found.left_out) == (80.0, 0.0, 9, 1)


@pytest.mark.parametrize("right", [True, False])
def test_equal_runs_differ_nowhere(right: bool) -> None:
    a, _ = crossed(3 * right, 0, 0, 3 * (not right))
    (found,), _ = differences(a, a, ["accuracy"])
    assert (found.difference, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, NO_DIFFERENCE)


@pytest.mark.parametrize("pair", [(graded(1, 2), graded(1, 9)), (answered(1, False), answered(1, True))])
def test_one_question_shows_no_difference(pair: tuple[Outcome, Outcome]) -> None:
    (found,), _ = differences([pair[0]], [pair[1]], list(pair[0].sums))
    assert found.difference >= 70 and found.low == found.high == found.difference
    assert (found.p, found.verdict) == (1.0, NO_DIFFERENCE)


def test_an_unread_answer_that_is_counted_wrong_stays() -> None:
    wrong = {"accuracy": (0.0, 1.0)}
    a = [answered(n, True, sums={"accuracy": (1.0, 1.0), "precision": (1.0, 1.0)}) for n in range(4)]
    b = [*a[:3], answered(3, False, sums=wrong, read=None)]
    found, _ = differences(a, b, ["accuracy", "precision"])
    assert [(d.a, d.b, d.left_out, d.count) for d in found] == [(100, 75, 0, 4), (100, 100, 0, 4)]


# Pairs, choice, words, settings


def test_the_choice_is_even_over_sides_and_kinds_and_repeats() -> None:
    kinds, rng = ["count", "colour", "object"], random.Random(0)
    pairs = [
        Pair(answered(n, side < 0, kind=kind), answered(n, side > 0, kind=kind), side)
        for n, (side, kind) in enumerate(
            (rng.choice((-1, 1, 1, 1, 0)), rng.choice(kinds)) for _ in range(300)
        )
    ]
    shown = choose(pairs, 12)
    assert [pair.who for pair in shown].count("A") == 6 and all(pair.lead for pair in shown)
    assert sorted(pair.kind for pair in shown if pair.who == "B") == sorted(kinds * 2)
    assert shown == choose(pairs, 12) != choose(pairs, 12, seed=1)
    assert [int(pair.id) for pair in shown] == sorted(int(pair.id) for pair in shown)
    assert len(choose(pairs, 1000)) == sum(pair.lead != 0 for pair in pairs) and choose(pairs, 0) == []


def test_graded_pairs_show_those_that_differ_most() -> None:
    a = [graded(n, 5.0) for n in range(9)]
    b = [graded(n, 5.0 + (n - 4) / 2) for n in range(8)] + [Outcome("8", "Describe it.", "?", {})]
    pairs = pair_up(a, b, "all", 1)
    assert [pair.who for pair in pairs] == ["A"] * 4 + [SAME] + ["B"] * 3 + [NOT_SCORED]
    assert [pair.id for pair in choose(pairs, 4)] == ["0", "1", "7", "6"]
    assert [pair.who for pair in pair_up(a, b, "all", -1)][:6] == ["B"] * 4 + [SAME, "A"]


def test_answers_that_one_run_did_not_judge_are_on_no_side() -> None:
    a = [answered(1, True), answered(2, True)]
    b = [answered(1, False), answered(2, True)]
    b[1] = Outcome(**{**vars(b[1]), "right": None})
    assert [pair.who for pair in pair_up(a, b, "accuracy", 1)] == ["A", NOT_SCORED]


def test_words_that_only_one_answer_has() -> None:
    a, b = compare_words("A dog is on the left, I think.", "a Dog is  on the right.")
    assert [(span.text, span.own) for span in a] == [
        ("A dog is on the", False), (" ", False), ("left, I think.", True),
    ]  # fmt: skip
    assert "".join(span.text for span in b) == "a Dog is  on the right."
    assert [span.text for span in b if span.own] == ["right."]
    strange = compare_words(" ".join("abcdefghijklmn"), " ".join("0123456789"))
    assert not any(span.own for side in strange for span in side)
    assert compare_words("", "") == ([], [])
    assert [[span.text for span in side] for side in compare_words("x " * 700, "y")] == [["x " * 700], ["y"]]


def test_settings_that_differ_are_told_prompts_first() -> None:
    a = {"made": {"hash": "1", "decoding": {"beams": 1, "greedy": True}, "prompt_format": "{question}"}}
    b = {"made": {"hash": "2", "decoding": {"beams": 1}, "prompt_format": "Q: {question}"}, "vistune": "2"}
    found = [(s.name, s.a, s.b) for s in differing(a, b)]
    assert found == [
        ("prompt_format", "{question}", "Q: {question}"),
        ("hash", "1", "2"),
        ("decoding.greedy", "true", ABSENT),
        ("scored by vistune", ABSENT, "2"),
    ]
    assert differing(a, a) == []


def test_saying_yes_more_often_is_no_merit(tmp_path: Path) -> None:
    rows = [[answered(n, True, sums={"yes_share": (x, 1.0)}) for n in range(30)] for x in (0.0, 1.0)]
    one, two = (
        folder(tmp_path / name, row, neither_is_better=["yes_share"])
        for name, row in zip("ab", rows, strict=True)
    )
    (found,) = compare(one, two, out=tmp_path / "out").measures
    assert found.differs and found.verdict == "they differ"
    assert "The two runs differ by 100.0 points" in (tmp_path / "out" / "compare.html").read_text()


def test_the_terminal_cannot_be_painted(tmp_path: Path) -> None:
    a, b = crossed(1, 1, 1, 1)
    one = folder(tmp_path / "one", a, made={"template": "\x1b[31mred"})
    text = compare(one, folder(tmp_path / "two", b)).table()
    assert "\x1b" not in text and "�[31mred" in text


def test_long_settings_are_cut_where_they_part() -> None:
    a, b = _short("x" * 100 + " one", "x" * 100 + " two")
    assert (a, b) == ("…" + "x" * 11 + " one", "…" + "x" * 11 + " two")
    assert _short("a\n b", "c" * 80) == ("a b", "c" * 59 + "…")


def test_names_tell_the_folders_apart(tmp_path: Path) -> None:
    assert short_names(tmp_path / "one", tmp_path / "two") == ("one", "two")
    assert short_names(tmp_path / "a" / "pope", tmp_path / "b" / "pope") == ("a/pope", "b/pope")
    assert short_names(Path("/pope"), Path("/x/pope"))[1] == "x/pope"


def test_the_plot_puts_bs_gain_right() -> None:
    a, b = crossed(0, 0, 40, 60)
    (higher,), _ = differences(a, b, ["accuracy"])
    (lower,), _ = differences(a, b, ["accuracy"], lower=["accuracy"])
    extent = plot_extent([higher])
    assert extent == 50.0 and plot_extent([]) == 1.0
    assert plot_extent([replace(higher, high=28.7, difference=20.0)]) == 30.0
    right, left = plot(higher, extent), plot(lower, extent)
    assert (right.dot, left.dot) == pytest.approx((90.0, 10.0))
    assert right.left < right.dot < right.left + right.width <= 100
    assert left.left == pytest.approx(100 - right.left - right.width)


# Folders in, a table and a page out


def test_over_the_questions_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = crossed(50, 4, 30, 16)
    one = folder(tmp_path / "one" / "own", a[:95], questions=120, headline="accuracy")
    two = folder(tmp_path / "two" / "own", b[2:], questions=120, made={"template": "v0"})
    compare_and_tell(one, two, json_file=tmp_path / "figures.json")
    text = capsys.readouterr().out
    assert "A one/own: 95 answered" in text
    assert "Compared over 93 of 120 questions: those that both answered." in text
    assert "2 more were answered by A alone." in text and "5 more were answered by B alone." in text
    assert re.search(r"template +v1 +v0", text) and "The prompts differ" in text
    assert re.search(r"accuracy +55\.91 +83\.87 +\+27\.96 .* 93 +4 +30 +<0\.001 +B is better", text)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["questions"] == {
        "benchmark": 120,
        "compared": 93,
        "only_a": 2,
        "only_b": 5,
        "asked_in_other_words": 0,
        "set_aside": {},
    }
    measure = figures["measures"]["accuracy"]
    assert (measure["only_a"], measure["only_b"], measure["verdict"]) == (4, 30, "B is better")
    assert figures["made_differently"]["template"] == ["v1", "v0"] and figures["prompts_differ"]
    assert figures["outcomes"] == {"both right": 48, "A": 4, "B": 30, "neither right": 11}
    assert not (tmp_path / "out").exists()


def test_lower_is_better_and_absent_measures_come_from_the_folders(tmp_path: Path) -> None:
    a = [answered(n, True, sums={"chair": (0.0, 1.0), "recall": (1.0, 2.0)}) for n in range(30)]
    b = [answered(n, True, sums={"chair": (1.0, 1.0), "none": (0.0, 0.0)}) for n in range(30)]
    one = folder(tmp_path / "one", a, lower_is_better=["chair"], scores={"recall": 1.0, "chair": 2.0})
    found = compare(one, folder(tmp_path / "two", b, lower_is_better=["chair"]))
    assert [(m.name, m.verdict) for m in found.measures] == [("chair", "A is better")]
    assert found.dropped == {
        "recall": "counts no common question in B",
        "none": "counts no common question in A and B",
    }
    assert "chair ↓" in found.table() and "recall: not compared" in found.table()


def test_other_questions_under_the_same_id_are_left_out_and_told(tmp_path: Path) -> None:
    a, b = crossed(3, 1, 1, 0)
    b[0] = answered(0, True, references=("no",))
    b[1] = answered(1, True, image="other.jpg")
    b[2] = Outcome(**{**vars(b[2]), "question": "Is 2 there? Answer yes or no."})
    found = compare(folder(tmp_path / "one", a), folder(tmp_path / "two", b))
    text = found.table()
    assert "Compared over 3 of 5 questions" in text
    assert "Left out: 1 scored with other references in the two runs." in text
    assert "Left out: 1 asked about another picture in the two runs." in text
    assert "Asked in other words in the two runs: 1." in text and "The prompts differ" in text


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a, b = crossed(1, 1, 1, 1)
    one, two = folder(tmp_path / "one", a), folder(tmp_path / "two", b)
    f1, refs = [answered(0, True, sums={"f1": (1.0, 2.0)})], [answered(0, True, references=("no",))]
    for first, second, words in [
        (one, one, "with itself"),
        (one, tmp_path / "none", "no such folder"),
        (one, folder(tmp_path / "pope", b, bench="pope"), "only runs of one benchmark"),
        (one, folder(tmp_path / "apart", [answered(9, True)]), "no id is in both"),
        (
            one,
            folder(tmp_path / "refs", refs),
            "in both: 1, scored with",
        ),
        (one, folder(tmp_path / "twice", [a[0], a[0]]), "ids twice: 1, such as '0'"),
        (one, folder(tmp_path / "empty", []), "no outcome"),
        (
            one,
            folder(tmp_path / "other", f1),
            "no measure in common",
        ),
    ]:
        with pytest.raises(VistuneError, match=words):
            compare(first, second)
    (two / "outcomes.jsonl").write_text((one / "outcomes.jsonl").read_text() + '{"id": 1}\n')
    with pytest.raises(VistuneError, match=f"line {len(a) + 1}: not what scoring writes"):
        compare(one, two)
    (two / "outcomes.jsonl").unlink()
    with pytest.raises(VistuneError, match=r"has no outcomes\.jsonl.*vistune judge"):
        compare(one, two)
    folder(tmp_path / "runs" / "1", a)
    with pytest.raises(VistuneError, match="holds several runs"):
        compare(one, tmp_path / "runs")
    broken = folder(tmp_path / "broken", b)
    for content in ("{}", "[]", "{"):
        (broken / "scores.json").write_text(content)
        with pytest.raises(VistuneError, match="names no benchmark"):
            compare(one, broken)


def test_settings_and_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    a, b = crossed(1, 1, 1, 1)
    one, two = folder(tmp_path / "one", a), folder(tmp_path / "two", b)
    with pytest.raises(VistuneError, match="--images would be ignored"):
        compare(one, two, images=tmp_path)
    with pytest.raises(VistuneError, match="expected 0 or more"):
        compare(one, two, show=-1)
    with pytest.raises(VistuneError, match="not an empty folder"):
        compare(one, two, out=one)
    with pytest.raises(VistuneError, match="cannot be written"):
        compare(one, two, json_file=one / "scores.json" / "x.json")
    compare(one, two, json_file=tmp_path / "new" / "x.json")
    assert (tmp_path / "new" / "x.json").is_file()


def test_the_page_shows_where(tmp_path: Path) -> None:
    a, b = crossed(10, 6, 20, 4)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for outcome in a[:20]:
        Image.new("RGB", (40, 30), "red").save(pictures / str(outcome.image))
    one, two = folder(tmp_path / "one", a), folder(tmp_path / "two", b)
    found = compare(one, two, images=pictures, out=tmp_path / "out", show=12)
    page = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    assert found.page == tmp_path / "out" / "compare.html"
    assert "two</span> is better by 35.0 points" in page and "12 of 26 questions" in page
    assert page.count("<article") == 12 and page.count('data-who="A"') == 6
    ids = [int(name) for name in re.findall(r'<span class="id">(\d+)</span>', page)]
    missing = [name for name in ids if name >= 20]
    assert missing and page.count("data:image/jpeg") == 12 - len(missing)
    assert f"{len(missing)} pictures cannot be shown" in page
    assert all(f"{name}.jpg: picture is missing" in page for name in missing)
    assert "<mark>Yes.</mark>" in page and "<mark>No.</mark>" in page
    rows = [json.loads(line) for line in (tmp_path / "out" / "differing.jsonl").read_text().splitlines()]
    assert [row["better"] for row in rows] == ["A"] * 6 + ["B"] * 20
    figures = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert figures == found.figures()
    assert kind_rows(found.pairs) == [], "one kind needs no plot"


def test_pages_of_degenerate_runs(tmp_path: Path) -> None:
    a, _ = crossed(0, 0, 0, 3)
    first, second = folder(tmp_path / "1", a), folder(tmp_path / "2", a)
    page = compare(first, second, out=tmp_path / "same").page
    assert page and "No difference shown" in page.read_text() and "<article" not in page.read_text()
    one, two = [graded(1, 3.0, kind="x")], [graded(1, 4.0, kind="x")]
    page = compare(folder(tmp_path / "3", one), folder(tmp_path / "4", two), out=tmp_path / "one").page
    assert page and "The question on which the scores (all) differ" in page.read_text()
    assert "B does better by 10.0" in page.read_text()


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    changes = {"kind": ATTACK, "references": (ATTACK,), "note": ATTACK, "image": f"../{ATTACK}"}
    a = [answered(n, False, answer=ATTACK * 200, read=ATTACK, **changes) for n in (ATTACK, "2")]
    b = [answered(n, True, answer=f"no {ATTACK}", read=None, **changes) for n in (ATTACK, "2")]
    a[1] = Outcome(**{**vars(a[1]), "kind": '" onmouseover="alert(1)'})
    sums = {ATTACK: (1.0, 1.0)}
    a = [Outcome(**{**vars(x), "sums": {ATTACK: (0.0, 1.0)}}) for x in a]
    b = [Outcome(**{**vars(x), "sums": sums, "question": ATTACK}) for x in b]
    one = folder(tmp_path / "one", a, title=ATTACK, made={ATTACK: ATTACK})
    two = folder(tmp_path / "<b>two", b, title=ATTACK, made={ATTACK: "other"})
    (tmp_path / "pictures").mkdir()
    page = compare(one, two, images=tmp_path / "pictures", out=tmp_path / "out").page
    assert page
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 1 and "<img" not in text and "<b>two" not in text
    assert 'onmouseover="' not in text and html.escape(ATTACK).replace("&#x27;", "&#39;") in text
    assert "picture outside the folder of images" in text and "more characters)" in text
    links = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", text)
    assert links and all((attribute or style).startswith("data:") for attribute, style in links)
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in text and f"script-src 'sha256-{digest}'" in html.unescape(text)


def test_a_full_disk_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_page", full)
    a, b = crossed(1, 1, 1, 1)
    with pytest.raises(VistuneError, match=r"out: cannot be written \(No space left"):
        compare(folder(tmp_path / "one", a), folder(tmp_path / "two", b), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_comparing_loads_nothing_heavy() -> None:
    code = (
        "import sys, vistune.evaluate.compare.run; "
        "sys.exit(bool({'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_llava_and_gpt3_on_scienceqa(tmp_path: Path) -> None:
    """Published outputs: the paper's averages, 90.92 and 75.17, over all 4,241 questions."""
    data = SHARED_DATA / "scienceqa"
    if not data.is_dir():
        pytest.skip("needs ../shared/data/scienceqa, which is not part of the repository")
    problems = json.loads((data / "test_problems.json").read_text())
    runs = []
    for name in ("gpt3", "llava"):
        results = json.loads(next(data.glob(f"*{name}*")).read_text())["results"]
        outcomes = [
            answered(key, results[key] == problem["answer"], kind=problem["subject"], references=())
            for key, problem in problems.items()
        ]
        runs.append(folder(tmp_path / name, outcomes))
    (found,) = compare(*runs).measures
    assert (round(found.a, 2), round(found.b, 2), found.count) == (75.17, 90.92, 4241)
    assert found.verdict == "B is better" and 14 < found.low < found.difference < found.high < 17.5
