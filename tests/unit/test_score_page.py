"""The page about scores: self-contained, escaped, true to its numbers, and open about what it lacks."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vistune.errors import Problem, VistuneError
from vistune.evaluate.benches.own import OwnData
from vistune.evaluate.measure import measures
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.published import Published
from vistune.evaluate.report.gallery import draw, fell_short, make_gallery
from vistune.evaluate.report.page import MISSING, write_page, write_report
from vistune.evaluate.report.plots import plot
from vistune.evaluate.score import Scored
from vistune.evaluate.table import NOTHING, render, score_parts
from vistune.question import Question, Questions

ATTACK = "<script>alert('answer')</script>"
KINDS = ("count", "colour", 'rare" onclick="x')


class Bench(OwnData):
    title, headline = "Own <b>data</b>", "all"


def make_run(answers: int = 60, wrong_every: int = 2, path: str = "answers.jsonl") -> Scored:
    """Answers of three kinds, of which one is rare; every ``wrong_every``-th is wrong, and attacks."""
    outcomes = []
    for number in range(answers):
        right = number % wrong_every != 0
        kind = KINDS[2] if number == 0 else KINDS[number % 4 // 2]
        outcomes.append(
            Outcome(
                f"q{number}",
                f"Question {number} {ATTACK}?",
                "two" if right else ATTACK,
                {"all": (float(right), 1.0)},
                f"{number:03d}.jpg",
                ("two", ATTACK),
                kind,
                "two" if right else None,
                right,
                "" if right else f"names nothing {ATTACK}",
            )
        )
    questions = [Question(o.id, o.question, o.image, o.references, o.kind) for o in outcomes]
    problems = [Problem(f"file:{n}", f"no answer {ATTACK}", ATTACK) for n in range(30)]
    made = {"model": ATTACK, "decoding": {"beams": 1, "sample": False}, "files": {}}
    return Scored(
        Bench(),
        Path(path),
        Questions(questions, []),
        outcomes,
        measures(outcomes, ["all"]),
        [],
        problems,
        made,
    )


def make_pictures(folder: Path, numbers: Sequence[int]) -> Path:
    folder.mkdir()
    for number in numbers:
        Image.new("RGB", (640, 320), (number, 90, 90)).save(folder / f"{number:03d}.jpg")
    return folder


PUBLISHED = [
    Published(f"Model {ATTACK}", {"all": 61.5}, 1, f"Paper {ATTACK}", "judged"),
    Published("B", {"x": 9.0}, 1, "P"),
]


def test_all_text_is_escaped_and_nothing_is_requested(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", [make_run()], PUBLISHED[:1])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert ATTACK not in page and html.escape(ATTACK, quote=False).split("(")[0] in page
    assert page.count("<script") == 1 and "onclick=" not in page.replace("onclick=&#34;", "")
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page) and "://" not in page
    assert "{{" not in page and "default-src 'none'" in page


def test_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    run = make_run()
    write_page(tmp_path / "p.html", [run], PUBLISHED[:1])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    measure = run.measures["all"]
    assert "Own &lt;b&gt;data&lt;/b&gt;: 50.00" in page
    assert f"from {measure.low:.2f} to {measure.high:.2f} over 60 questions" in page
    assert "61.5" in page and "(judged)" in page and "beams 1, sample False" in page
    assert "30 of 60 answers" in page and "30 × no answer" in page and "and 10 more: set_aside.jsonl" in page


def test_a_partial_run_says_so_and_shows_no_score_in_its_title(tmp_path: Path) -> None:
    run = make_run()
    partial = replace(run, questions=replace(run.questions, official=100))
    write_page(tmp_path / "p.html", [partial], [])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "60 of Own &lt;b&gt;data&lt;/b&gt;&#39;s 100 questions: not its score" in page
    assert "</b&gt;: 50.00" not in page and "of what is answered" in page and 'class="theirs"' not in page


def test_several_runs_have_a_column_each(tmp_path: Path) -> None:
    runs = [make_run(), make_run(wrong_every=3, path="b.jsonl")]
    write_page(tmp_path / "p.html", runs, [])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    mean = r"<td>50.00</td><td>66.67</td><td>58.33</td><td>[\d.]+ to [\d.]+</td><td>±11.79</td><td>60</td>"
    assert re.search(mean, re.sub(r"\s*\n\s*", "", page))
    assert "run 2</span>" in page


def test_a_folder_of_pictures_with_gaps_is_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_pictures(tmp_path / "images", range(0, 60, 4))
    (images / "004.jpg").write_bytes(b"no picture")
    page = write_report(tmp_path / "out", [make_run()], [], images)
    text = page.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (tmp_path / "out" / MISSING).read_text().splitlines()]
    assert len(rows) == 45 and rows[0] == {"place": "001.jpg", "reason": "picture is missing", "detail": ""}
    assert "lacks 45 of 60 pictures: 001.jpg, 002.jpg" in " ".join(capsys.readouterr().err.split())
    assert "lacks 45 of the 60 pictures" in text
    assert text.count('src="data:image/jpeg') == 14 and text.count(".jpg: picture is missing") == 15
    assert "004.jpg: not a picture" in text


def test_a_picture_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", [0])
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.jpg")
    run = make_run(2)
    run.outcomes[0] = replace(run.outcomes[0], image="../secret.jpg")
    write_page(tmp_path / "p.html", [run], [], images)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" not in page and "outside the folder" in page


def test_no_folder_of_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VistuneError):
        write_page(tmp_path / "p.html", [make_run()], [], tmp_path / "none")


def test_the_gallery_is_bounded_fair_to_kinds_and_repeatable() -> None:
    run = make_run(400)
    gallery = make_gallery([run], None, most=12, seed=3)
    assert len(gallery.cards) == 12 and gallery.short == 200
    assert gallery.kinds[KINDS[2]] == 1 and set(gallery.kinds) == set(KINDS)
    assert abs(gallery.kinds["count"] - gallery.kinds["colour"]) <= 1
    assert all(card.outcome.right is False for card in gallery.cards)
    same, other = make_gallery([run], None, 12, 3), make_gallery([run], None, 12, 4)
    assert [c.outcome.id for c in gallery.cards] == [c.outcome.id for c in same.cards]
    assert [c.outcome.id for c in gallery.cards] != [c.outcome.id for c in other.cards]


def test_draw_takes_all_where_there_are_few() -> None:
    assert draw(["a", "b", "a"], 9, 0) == [0, 1, 2] and draw([], 9, 0) == []


@pytest.mark.parametrize(
    ("sums", "lower", "short"),
    [
        ((6.0, 9.0), False, True),
        ((9.0, 9.0), False, False),
        ((0.0, 3.0), True, False),
        ((1.0, 3.0), True, True),
    ],
)
def test_what_fell_short_where_nothing_is_right_or_wrong(
    sums: tuple[float, float], lower: bool, short: bool
) -> None:
    bench = Bench()
    bench.lower_is_better = frozenset({"all"}) if lower else frozenset()
    assert fell_short(bench, Outcome("1", "", "", {"all": sums}, read="x")) is short


def test_an_unread_answer_fell_short() -> None:
    assert fell_short(Bench(), Outcome("1", "", "", {}))


def test_dots_lie_where_their_values_are() -> None:
    run = make_run()
    drawn = plot([run], {"all": 50.0}, PUBLISHED[:1])
    (line,) = drawn.lines
    ticks = {tick.label: tick.at for tick in drawn.ticks}
    low, high = float(drawn.ticks[0].label), float(drawn.ticks[-1].label)
    assert ticks[f"{low:g}"] == 0 and ticks[f"{high:g}"] == 100 and low <= run.measures["all"].low
    theirs, ours = line.dots
    assert (theirs.row, ours.row) == (1, 0)
    assert ours.at == pytest.approx(100 * (50 - low) / (high - low))
    assert theirs.at == pytest.approx(100 * (61.5 - low) / (high - low))
    assert line.interval is not None and line.interval[0] < ours.at < line.interval[1]


def test_a_plot_of_equal_values_has_an_axis() -> None:
    run = make_run(4, wrong_every=9)
    single = replace(run, measures={"all": replace(run.measures["all"], value=100.0, low=100.0, high=100.0)})
    drawn = plot([single], {"all": 100.0}, [])
    assert drawn.lines[0].dots[0].at == 100 and drawn.ticks[-1].label == "100" and len(drawn.ticks) >= 2


def test_what_the_words_alone_give_stands_beside(tmp_path: Path) -> None:
    write_page(tmp_path / "p.html", [make_run()], [], blind=make_run(wrong_every=3))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<th>without pictures</th>" in page and "<td>66.67</td>" in page


def test_answers_of_which_none_counts_have_a_page_without_a_score(tmp_path: Path) -> None:
    run = make_run()
    nothing = replace(run, measures={}, outcomes=[replace(o, sums={}, read=None) for o in run.outcomes])
    write_page(tmp_path / "p.html", [nothing], [])
    assert "No answer counts in all." in (tmp_path / "p.html").read_text(encoding="utf-8")
    assert NOTHING in render(score_parts([nothing], []))
