"""The report page: complete, self-contained, escaped, and true to the numbers it was given."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.conversation import Conversation, ask, gpt, human, to_json
from vistune.data.sources.annotated import Box
from vistune.evaluate.measure import wilson_interval
from vistune.evaluate.outcome import Outcome, write_outcomes
from vistune.page.drawing import category_hues, overlay
from vistune.quickstart.answers import read_answers
from vistune.quickstart.charts import loss_curve, loss_range, moving_average
from vistune.quickstart.gallery import make_gallery
from vistune.quickstart.report import write_report
from vistune.recipe import Recipe, load_recipe

ATTACK = "<script>alert('answer')</script>"
QUESTIONS = (
    ("presence", "Is there a cat in the picture?", "Yes."),
    ("count", "How many cats are there?", "Two."),
)


def answered(outcome: Outcome, text: str) -> Outcome:
    """The question of ``outcome``, answered by ``text``."""
    right = text in outcome.references
    sums = {name: (float(right), 1.0) for name in (outcome.kind, "all")}
    return replace(outcome, answer=text, read=text, right=right, sums=sums)


def make_answers(pictures: int, wrong_every: int) -> list[Outcome]:
    """Two questions about each picture; every ``wrong_every``-th answer is wrong (0: none)."""
    answers = []
    for number in range(pictures):
        for turn, (kind, question, reference) in enumerate(QUESTIONS):
            wrong = wrong_every and (2 * number + turn) % wrong_every == 0
            name = f"val_{number:06d}.jpg"
            asked = Outcome(f"{number}-{turn}", question, "", {}, name, (reference,), kind)
            answers.append(answered(asked, ATTACK if wrong else reference))
    return answers


def blind_answers(answers: Sequence[Outcome]) -> list[Outcome]:
    return [answered(a, "Yes.") for a in answers]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_training_data(out: Path, pictures: int) -> None:
    """Grey pictures with a caption, a box and each type of data."""
    images, captions, instances = [], [], []
    for number in range(pictures):
        Image.new("RGB", (64, 48), "gray").save(out / "world" / "images" / f"train_{number:06d}.jpg")
        images.append({"id": number, "file_name": f"train_{number:06d}.jpg", "width": 64, "height": 48})
        captions.append({"id": number, "image_id": number, "caption": f"Caption {number} & more."})
        instances.append({"id": number, "image_id": number, "category_id": 1, "bbox": [8, 0, 16, 12]})
    write_json(out / "world" / "captions_train.json", {"images": images, "annotations": captions})
    content = {"images": images, "annotations": instances, "categories": [{"id": 1, "name": "white square"}]}
    write_json(out / "world" / "instances_train.json", content)
    for name in ("conversation", "detail", "reasoning", "alignment"):
        records = [
            to_json(Conversation(str(i), (human(*ask(f"{name}?", r["file_name"])), gpt(f"{name} {i}."))))
            for i, r in enumerate(images)
        ]
        write_json(out / "data" / "train" / f"{name}.json", records)
    provenance = {"teacher": "offline", "images": pictures, "counts": {"conversation": 1234}}
    write_json(out / "data" / "train" / "provenance.json", provenance)


def write_metrics(out: Path, stage: str, losses: Sequence[float]) -> None:
    rows = [
        {"step": i, "loss": loss, "learning_rate": {"llm": 1e-3 / (i + 1)}} for i, loss in enumerate(losses)
    ]
    write_lines(out / "train" / stage / "metrics.jsonl", rows)


def write_evaluation(out: Path, answers: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes of a run in ``out``; gives the metrics that its quickstart would have."""
    blind = blind_answers(answers)
    for answer in answers:
        Image.new("RGB", (64, 48), "gray").save(out / "world" / "images" / str(answer.image))
    (out / "evaluation").mkdir()
    write_outcomes(out / "evaluation" / "outcomes.jsonl", answers)
    write_outcomes(out / "evaluation" / "outcomes_blind.jsonl", blind)
    return {
        "accuracy": sum(bool(a.right) for a in answers) / max(1, len(answers)),
        "blind_accuracy": sum(bool(a.right) for a in blind) / max(1, len(answers)),
        "questions": len(answers),
        "unseen_pictures": len(answers) // 2,
        "seconds": 366.0,
        "seconds_by_step": {"world": 6.5, "train": 359.5},
        "peak_memory_mb": 1357,
        "seed": 7,
        "versions": {"vistune": "0.1.0", "python": "3.11.9"},
    }


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "world" / "images").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("starter")


@pytest.fixture
def page(out: Path, recipe: Recipe) -> str:
    write_training_data(out, 5)
    write_metrics(out, "align", [4.0, 3.0, 2.0])
    write_metrics(out, "instruct", [1.0, 0.5])
    path = write_report(out, recipe, write_evaluation(out, make_answers(40, wrong_every=8)))
    assert path == out / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_requests_nothing(page: str) -> None:
    links = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert links
    assert all((attribute or style).startswith("data:") for attribute, style in links)
    assert "<script" not in page and "default-src 'none'" in page


def test_text_of_an_answer_is_escaped(page: str) -> None:
    assert ATTACK not in page
    assert html.escape(ATTACK).replace("&#x27;", "&#39;") in page
    assert "Caption 0 &amp; more." in page


def test_the_headline_figures_are_the_metrics(page: str) -> None:
    figures = re.findall(r"<dd>(.*?)</dd>", page[page.index("figures number") :])[:6]
    assert figures == ["87.5%", "50.0%", "+37.5", "80", "6.1", "1,357<small>MB</small>"]


def test_each_kind_has_its_share_count_and_interval(out: Path, recipe: Recipe) -> None:
    metrics = write_evaluation(out, make_answers(40, wrong_every=7))
    page = write_report(out, recipe, metrics).read_text(encoding="utf-8")
    assert (
        page.index("<h3>all questions</h3>") < page.index("<h3>presence</h3>") < page.index("<h3>count</h3>")
    )
    row = page[page.index("<h3>count</h3>") :]
    row = row[: row.index("</li>")]
    right = [bool(a.right) for a in make_answers(40, wrong_every=7) if a.kind == "count"]
    assert f"{sum(right) / 40:.1%}" in row and "40 questions" in row and "blind 0.0%" in row
    low, high = wilson_interval(sum(right), 40)
    assert f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%" in row
    assert "How many cats are there?" in row


def test_gallery_shows_right_and_wrong_in_proportion(page: str) -> None:
    section = page[page.index("Answers about unseen pictures") :]
    assert section.count('<span class="glyph right"') == 21
    assert section.count('<span class="glyph wrong"') == 3
    assert "21 of 24 answers are right (87.5%); overall it is 87.5%" in section
    assert "without the picture: Yes." in section


def test_both_stages_say_what_they_train(page: str) -> None:
    assert "Trains connector; frozen: vision encoder, LLM." in page
    assert "Trains connector and LLM; frozen: vision encoder." in page
    assert page.count('<path class="smooth"') == 2


def test_samples_show_boxes_the_three_types_and_what_the_teacher_saw(page: str) -> None:
    assert page.count('<article class="card sample">') == 3
    assert "white square</text>" in page and "white square: [0.125, 0, 0.375, 0.25]" in page
    assert all(f'<p class="a">{name} 0.</p>' in page for name in ("conversation", "detail", "reasoning"))
    assert "1,234" in page


def test_attribution_and_next_commands(page: str, out: Path) -> None:
    assert "Emoji pictures: Twemoji, CC-BY 4.0" in page
    assert f"vistune chat {out / 'model'} --image {out / 'world' / 'images'}" in page


def test_a_poor_run_still_gets_a_page(out: Path, recipe: Recipe) -> None:
    """One stage, one picture, one kind, no wrong answer, no training data, no blind answers."""
    metrics = write_evaluation(out, make_answers(1, wrong_every=0)[:1])
    (out / "evaluation" / "outcomes_blind.jsonl").unlink()
    write_metrics(out, "align", [2.0])
    page = write_report(out, recipe, metrics).read_text(encoding="utf-8")
    assert page.count('<path class="smooth"') == 1
    assert "1 of 1 answers are right" in page
    assert "What it learned from" not in page


def test_a_run_without_any_answer_or_finite_loss(out: Path, recipe: Recipe) -> None:
    metrics = write_evaluation(out, [])
    write_metrics(out, "align", [float("nan")])
    page = write_report(out, recipe, metrics).read_text(encoding="utf-8")
    assert "Answers about unseen pictures" not in page and "Loss per supervised" not in page


def test_gallery_keeps_to_the_wanted_number_and_is_deterministic() -> None:
    answers = make_answers(50, wrong_every=9)
    gallery = make_gallery(answers, [], wanted=12)
    assert (len(gallery.cards), gallery.stride) == (12, 4)
    assert gallery == make_gallery(answers, [], wanted=12)
    assert 0 < gallery.right < gallery.questions


def test_gallery_leaves_out_questions_without_a_picture() -> None:
    answers = [replace(a, image=None) if a.kind == "count" else a for a in make_answers(6, wrong_every=4)]
    gallery = make_gallery(answers, [], wanted=12)
    assert (gallery.questions, gallery.right) == (6, 3)


def test_answers_are_told_in_percent_kinds_first(out: Path) -> None:
    write_evaluation(out, make_answers(2, wrong_every=4))
    seeing, blind = read_answers(out / "evaluation")
    assert {name: share.value for name, share in seeing.shares.items()} == {
        "presence": 50,
        "count": 100,
        "all": 75,
    }
    assert list(seeing.by_kind) == ["presence", "count"]
    assert blind.shares["all"].value == 50
    assert read_answers(out)[0].shares == {}


def test_moving_average_starts_at_the_first_value_and_does_not_lag() -> None:
    assert moving_average([3.0, 2.0, 1.0, 2.0], reach=1) == pytest.approx([3.0, 2.0, 5 / 3, 1.5])
    assert moving_average([3.0, 1.0], reach=0) == [3.0, 1.0]


def test_loss_curve_spans_the_plot_on_a_logarithmic_axis() -> None:
    rows = [
        {"step": i, "loss": loss, "learning_rate": {"llm": 1.0}} for i, loss in enumerate((10.0, 1.0, 0.1))
    ]
    curve = loss_curve(rows, 0.1, 10.0)
    assert curve is not None
    assert curve.raw == "M0 0L500 500L1000 1000"
    assert [(tick.at, tick.label) for tick in curve.x_ticks] == [(0, "0"), (50, "1"), (100, "2")]
    assert {tick.label for tick in curve.y_ticks} >= {"0.1", "1", "10"}
    assert loss_range([[]]) == (0.1, 10.0)


def test_labels_of_boxes_stay_inside_the_picture() -> None:
    box = Box("hippopotamus", (0.9, 0.0, 1.0, 0.5))
    drawn = overlay([box], 0.5, category_hues([box.category])).boxes[0]
    assert drawn.label_x + drawn.label_width == pytest.approx(320)
    assert drawn.label_y == 0
    assert (drawn.x, drawn.height) == pytest.approx((288, 80))
