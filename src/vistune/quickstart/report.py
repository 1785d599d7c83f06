"""The page about a finished run: one HTML file that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.conversation import Conversation, questions_and_answers
from vistune.data.generation.generate import ALIGNMENT, read_provenance
from vistune.data.images import open_image
from vistune.data.samples import read_conversations
from vistune.data.sources.annotated import AnnotatedImage
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.teacher import SAMPLE_TYPES, SampleType
from vistune.evaluate.measure import Measure
from vistune.page.drawing import Overlay, category_hues, overlay
from vistune.page.render import data_uri, load_template
from vistune.quickstart.answers import ALL, Answers, read_answers
from vistune.quickstart.charts import LossCurve, loss_curve, loss_range
from vistune.quickstart.gallery import Exchange, Gallery, make_gallery
from vistune.recipe import Recipe, StageRecipe
from vistune.train.loop import read_all_metrics

_GALLERY_PICTURES = 12
_SAMPLED, _SAMPLE_PICTURES = 60, 3  # so many are shown, of the first so many
_SAMPLE_BOXES = range(3, 7)  # a sample picture has so many boxes: enough to tell, few enough to read
_PARTS = {"vision": "vision encoder", "connector": "connector", "llm": "LLM"}  # and their names on the page


@dataclass(frozen=True)
class KindRow:
    """Share of right answers to one kind of question, with and without the picture."""

    kind: str
    example: str
    seeing: Measure
    blind: Measure | None


@dataclass(frozen=True)
class StagePanel:
    name: str
    stage: StageRecipe
    steps: int
    curve: LossCurve
    trained: list[str]
    frozen: list[str]


@dataclass(frozen=True)
class Sample:
    """One training picture: what the teacher saw of it and what it wrote."""

    image: AnnotatedImage
    overlay: Overlay
    picture: str
    written: dict[SampleType, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Data:
    """The training data: its provenance, some samples, and a question of the alignment pairs."""

    provenance: dict[str, Any]
    samples: list[Sample]
    caption_question: str | None


def write_report(out: Path, recipe: Recipe, metrics: dict[str, Any]) -> Path:
    """Write ``out/report.html`` from the folders that a quickstart run left in ``out``.

    Args:
        metrics: the content of ``metrics.json``.

    Returns:
        The page's path. It has pictures, style and drawings inside and requests nothing.
    """
    seeing, blind = read_answers(out / "evaluation")
    gallery = make_gallery(seeing.outcomes, blind.outcomes, _GALLERY_PICTURES)
    images = out / "world" / "images"
    page = load_template("vistune.quickstart", "report.html.j2").render(
        recipe=recipe,
        metrics=metrics,
        kinds=kind_rows(seeing, blind),
        stages=_stage_panels(out / "train", recipe),
        gallery=gallery,
        pictures={card.image: data_uri(open_image(images / card.image)) for card in gallery.cards},
        example=_example(gallery),
        data=_read_data(out),
        commands=_commands(out, gallery),
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def kind_rows(seeing: Answers, blind: Answers) -> list[KindRow]:
    """A row for all questions, and one for each kind that was asked, with the kind's first question."""
    examples: dict[str, str] = {}
    for outcome in seeing.outcomes:
        examples.setdefault(outcome.kind, outcome.question)
    names = [name for name in (ALL, *seeing.by_kind) if name in seeing.shares]
    return [
        KindRow(
            "all questions" if name == ALL else name,
            examples.get(name, ""),
            seeing.shares[name],
            blind.shares.get(name),
        )
        for name in names
    ]


def _stage_panels(folder: Path, recipe: Recipe) -> list[StagePanel]:
    """A panel for each stage that left metrics; all share one range of losses."""
    logs = read_all_metrics(folder, recipe)
    low, high = loss_range(logs.values())
    return [
        _stage_panel(name, recipe.stages[name], len(rows), curve)
        for name, rows in logs.items()
        if (curve := loss_curve(rows, low, high))
    ]


def _stage_panel(name: str, stage: StageRecipe, steps: int, curve: LossCurve) -> StagePanel:
    trained = [title for part, title in _PARTS.items() if part in stage.trains]
    frozen = [title for part, title in _PARTS.items() if part not in stage.trains]
    return StagePanel(name, stage, steps, curve, trained, frozen)


def _example(gallery: Gallery) -> Exchange | None:
    """The first exchange of the gallery that needs the picture; more than yes or no where there is one."""
    found = [exchange for card in gallery.cards for exchange in card.exchanges if exchange.needs_picture]
    return min(found, key=_dullness, default=None)


def _dullness(exchange: Exchange) -> int:
    """Yes or no tells less than other answers, and a blind answer without words less than a wrong one."""
    wordless = exchange.blind is None or not any(map(str.isalpha, exchange.blind.answer))
    return 2 * ({"Yes.", "No."}.issuperset(exchange.seeing.references)) + wordless


def _read_data(out: Path) -> Data | None:
    """The training data of the run; None where the run has none."""
    world, folder = out / "world", out / "data" / "train"
    captions, instances = world / "captions_train.json", world / "instances_train.json"
    if not (folder / "provenance.json").exists() or not captions.exists() or not instances.exists():
        return None
    images = load_coco(captions, instances, world / "images", limit=_SAMPLED).images
    written = {kind: _by_picture(folder / f"{kind}.json") for kind in SAMPLE_TYPES}
    chosen = _choose_samples([image for image in images if any(image.file in w for w in written.values())])
    hues = category_hues(box.category for image in chosen for box in image.boxes)
    samples = []
    for image in chosen:
        picture = open_image(world / "images" / image.file)
        pairs = {kind: questions_and_answers(w[image.file]) for kind, w in written.items() if image.file in w}
        drawn = overlay(image.boxes, picture.height / picture.width, hues)
        samples.append(Sample(image, drawn, data_uri(picture), pairs))
    return Data(read_provenance(folder), samples, _caption_question(folder / f"{ALIGNMENT}.json"))


def _by_picture(path: Path) -> dict[str, Conversation]:
    conversations = read_conversations(path)[0] if path.exists() else []
    return {c.pictures[0]: c for c in conversations if c.pictures}


def _choose_samples(images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """Pictures at equal distances, of those with a readable number of boxes where there are any."""
    readable = [image for image in images if len(image.boxes) in _SAMPLE_BOXES] or images
    stride = max(1, len(readable) // _SAMPLE_PICTURES)
    return list(readable[::stride][:_SAMPLE_PICTURES])


def _caption_question(path: Path) -> str | None:
    pairs = [pair for c in _by_picture(path).values() for pair in questions_and_answers(c)]
    return pairs[0][0] if pairs else None


def _commands(out: Path, gallery: Gallery) -> list[tuple[str, str]]:
    """What to try next: a purpose and its command line."""
    images, data = _quoted(out / "world" / "images"), _quoted(out / "data" / "train")
    chat = f"vistune chat {_quoted(out / 'model')}"
    if gallery.cards:
        chat += f" --image {_quoted(out / 'world' / 'images' / gallery.cards[0].image)}"
    longer = f"vistune train starter stages.instruct.epochs=4 --data {data} --images {images} --out longer"
    own = "vistune generate --images photos --captions captions.json --instances instances.json --out my-data"
    return [
        ("Talk with the model about a picture", chat),
        ("Train again with one setting changed", longer),
        ("Write instruction data about your own pictures, in COCO's format", own),
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
