"""`vistune audit`: what a text names, what is invented, what repeats; and a page that escapes all of it."""

from __future__ import annotations

import errno
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data.audit import AuditSettings, audit
from vistune.data.audit import run as run_module
from vistune.data.audit.annotations import Annotated, join_key
from vistune.data.audit.examine import DUPLICATE, INVENTED, LEAK_IN_ANSWER
from vistune.data.audit.gallery import _Reservoir
from vistune.data.audit.questions import affirms, kind_of
from vistune.data.audit.run import sample_type
from vistune.data.audit.tally import Lengths
from vistune.data.audit.vocabulary import Vocabulary, _table
from vistune.data.generation.generate import generate
from vistune.data.sources.annotated import Annotations
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.errors import VistuneError

pytest.importorskip("datasketch")

COCO = (
    *"person bicycle car motorcycle airplane bus train truck boat bench bird cat dog horse sheep cow".split(),
    *"elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard".split(),
    *"kite skateboard surfboard bottle cup fork knife spoon bowl banana apple sandwich orange".split(),
    *"broccoli carrot pizza donut cake chair couch bed toilet tv laptop mouse remote keyboard".split(),
    *"microwave oven toaster sink refrigerator book clock vase scissors toothbrush".split(),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat"),
    *("baseball glove", "tennis racket", "wine glass", "hot dog", "potted plant", "dining table"),
    *("cell phone", "teddy bear", "hair drier"),
)
ATTACK = "<script>alert('dog')</script>"


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return Vocabulary(COCO)


# What a text names


def test_the_table_has_cocos_eighty_categories() -> None:
    assert len(COCO) == 80 and set(_table()["categories"]) == set(COCO)
    meant = {name for names in _table()["any_of"].values() for name in names}
    assert meant <= set(COCO)


NAMED = [
    ("A dog and two cats.", "dog cat"),
    ("Puppies play with mice near knives and buses.", "dog mouse knife bus"),
    ("A hot dog and a teddy bear.", "hot dog,teddy bear"),
    ("A stop-sign stands at the train tracks.", "stop sign"),
    ("The bus stop is next to the train station.", ""),
    ("He sits on the toilet seat and holds toilet paper.", "toilet"),
    ("A baby elephant follows an adult giraffe.", "elephant giraffe"),
    ("A baby, a cow.", "person cow"),
    ("The man's ties are there; he ties the boat.", "person tie boat"),
    ("He eats an orange beside an orange cat. The wall is orange.", "orange cat"),
    ("Slices of orange.", "orange"),
    ("The remote island; the remote control; two remotes.", "remote"),
    ("The player swings a bat at the ball in a baseball game.", "person,baseball bat,sports ball"),
    ("People like parks and humans love food.", ""),
    ("Two people and a group of young people are there.", "person"),
    ("A cat-like face, a dog-shaped cake and a toy train.", "cake"),
    ("A stuffed sheep and a stuffed bear.", "teddy bear"),
    ("A glass of wine and a cup of coffee.", "wine glass,cup"),
    ("The children's room has a high chair.", "chair"),
    ("She is on the phone at a phone booth.", "cell phone"),
    ("A fork in the road leads to the table tennis club.", ""),
    ("In einem café, naïve Bären.", ""),
]


@pytest.mark.parametrize(("text", "expected"), NAMED)
def test_objects_that_a_text_names(words: Vocabulary, text: str, expected: str) -> None:
    wanted = set(expected.split(",")) if "," in expected or expected in COCO else set(expected.split())
    assert words.asserted(text) == wanted


STANCES = [
    ("There is no dog in the picture.", "dog:denied"),
    ("There are no dogs, cats or horses.", "dog:denied cat:denied horse:denied"),
    ("No people, dogs, or even a cat.", "person:denied dog:denied cat:denied"),
    ("There are no cars, but a bus is parked.", "car:denied bus:asserted"),
    ("There is no dog, a cat sits there.", "dog:denied cat:asserted"),
    ("It isn't a dog but a cat.", "dog:denied cat:asserted"),
    ("A dog without a frisbee.", "dog:asserted frisbee:denied"),
    ("Not only a dog but also a cat.", "dog:asserted cat:asserted"),
    ("No, the dog is on a couch.", "dog:asserted couch:asserted"),
    ("No one rides the horse.", "horse:asserted"),
    ("I see neither a dog nor a cat.", "dog:denied cat:denied"),
    ("A cat instead of a dog.", "cat:asserted dog:denied"),
    ("The man might be waiting for a bus, as a bench is near.", "person:asserted bus:hedged bench:asserted"),
    ("If there was a dog, the cat would run.", "dog:hedged cat:asserted"),
    ("The cloud looks like a sheep.", "sheep:hedged"),
    ("Is there a dog? A cat is.", "dog:hedged cat:asserted"),
    ("No dog is here. A cat is.", "dog:denied cat:asserted"),
]


@pytest.mark.parametrize(("text", "expected"), STANCES)
def test_only_what_is_asserted_counts(words: Vocabulary, text: str, expected: str) -> None:
    found = [f"{'/'.join(mention.categories)}:{mention.stance}" for mention in words.find(text)]
    assert found == expected.split()


def test_mentions_know_their_place(words: Vocabulary) -> None:
    text = "No cars here: “two Hot Dogs”."
    assert [text[m.start : m.end] for m in words.find(text)] == ["cars", "Hot Dogs"]


def test_a_word_of_several_categories_means_any_of_them(words: Vocabulary) -> None:
    assert words.find("A bike.")[0].categories == ("bicycle", "motorcycle")
    assert Vocabulary(["motorcycle", "cat"]).find("A bike.")[0].categories == ("motorcycle",)


def test_other_categories_stand_for_themselves() -> None:
    other = Vocabulary(["dog", "cactus", "Traffic_Cone", "baby", "football"])
    text = "A baby with two footballs, cactuses, a traffic cone, a puppy, a hot dog and a man."
    assert other.asserted(text) == {"baby", "football", "cactus", "Traffic_Cone", "dog"}
    assert len([m for m in other.find(text) if m.categories == ("dog",)]) == 1, "a hot dog is no dog"


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is there a dog in the picture?", "presence"),
        ("How many dogs are there?", "count"),
        ("What is the number of cats?", "count"),
        ("What color is the bus?", "colour"),
        ("Where is the dog?", "place"),
        ("Is the dog to the left of the cat?", "place"),
        ("Why might he smile?", "reason"),
        ("What could be a reason for his smile?", "reason"),
        ("What is the man doing?", "activity"),
        ("What kind of bird is it?", "type"),
        ("Explain at length what is there and where.", "instruction"),
        ("I would like a detailed description of this image.", "instruction"),
        ("Who holds the bag?", "person"),
        ("Is the dog brown?", "yes or no"),
        ("What is on the table?", "what"),
        ("Anything else?", "other"),
    ],
)
def test_kinds_of_questions(question: str, kind: str) -> None:
    assert kind_of(question) == kind


@pytest.mark.parametrize(
    ("question", "answer", "affirmed"),
    [
        ("Is there a dog?", "Yes.", True),
        ("Is there a dog?", "No.", False),
        ("How many dogs are there?", "Two.", True),
        ("How many dogs are there?", "0", False),
        ("How many dogs are there?", "None.", False),
        ("Is the dog brown?", "Yes.", False),
    ],
)
def test_short_answers_affirm_what_the_question_names(question: str, answer: str, affirmed: bool) -> None:
    assert affirms(question, answer) is affirmed


# Annotations


def test_pictures_are_joined_by_name() -> None:
    names = ("000000000009.jpg", "coco/train2017/000000000009.jpg", "COCO_train2014_000000000009.jpg")
    assert {join_key(name) for name in names} == {"000000000009.jpg"}


def write_coco(folder: Path, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "annotations": [
            {"image_id": 1, "category_id": 18, "bbox": [10, 10, 20, 20]},
            {"image_id": 1, "category_id": 17, "bbox": [0, 0, 64, 48], "iscrowd": 1},
            {"image_id": 2, "category_id": 18, "bbox": [0, 0, 0, 0]},
            {"image_id": 2, "category_id": 99, "bbox": [0, 0, 9, 9]},
            {"image_id": 1, "category_id": "x", "bbox": None},
        ],
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2, 3)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}, {"id": 5, "name": "bus"}],
    } | changes
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_annotations_tell_what_is_in_a_picture(tmp_path: Path) -> None:
    annotated = Annotated(write_coco(tmp_path))
    assert annotated.present(["sub/1.jpg"]) == {"dog", "cat"}
    assert annotated.present(["2.jpg"]) == {"dog"} and annotated.boxes("2.jpg") == []
    assert annotated.present(["3.jpg"]) == set() and annotated.present(["2.jpg", "1.jpg"]) == {"dog", "cat"}
    assert annotated.knows("3.jpg") and not annotated.knows("4.jpg")
    dog, cat = annotated.boxes("1.jpg")
    assert (dog.category, cat.category, cat.crowd) == ("dog", "cat", True)
    assert dog.corners == pytest.approx((10 / 64, 10 / 48, 30 / 64, 30 / 48))
    assert [problem.reason for problem in annotated.problems] == ["malformed annotation"]


def test_captions_add_what_they_name(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    rows = [
        {"image_id": 3, "caption": "A bus and no dog."},
        {"image_id": 8, "caption": "A dog."},
        {"image_id": 1, "caption": None},
    ]
    path.write_text(json.dumps({"annotations": rows}))
    annotated = Annotated(write_coco(tmp_path))
    annotated.add_captions(path, Vocabulary(annotated.categories).asserted)
    assert annotated.present(["3.jpg"]) == {"bus"} and len(annotated.problems) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"id": 1}]}, r"images\[0\] is not COCO's format"),
        ({"categories": [{"name": "dog"}]}, r"categories\[0\] is not COCO's format"),
        (
            {"images": [{"id": n, "file_name": f"{n}/a.jpg", "width": 9, "height": 9} for n in (1, 2)]},
            "another picture has the name",
        ),
    ],
)
def test_annotations_that_cannot_be_used_stop(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(VistuneError, match=message):
        Annotated(write_coco(tmp_path, **changes))


# The whole audit


def record(name: str, image: str | None, *said: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(said)]
    if image:
        turns[0]["value"] = "<image>\n" + turns[0]["value"]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


LONG = "The dog runs over the green grass while the sun is shining on the hills behind the house."
RECORDS = [
    record(
        "1-conversation", "1.jpg", "What is there?", "A dog.", "Is there a bus?", "Yes.", "And?", "No bus."
    ),
    record(
        "2-conversation", "2.jpg", "Is there a cat?", "No.", "How many dogs?", "One dog, and a cat and a cat."
    ),
    record("1-detail", "1.jpg", "Describe it.", LONG),
    record("2-detail", "2.jpg", "Describe it.", LONG),
    record("3-detail", "3.jpg", "Describe it.", LONG.replace("hills", "trees")),
    record("1-reasoning", "1.jpg", "Why?", f"The caption says {ATTACK}."),
    record("9-reasoning", "9.jpg", "Why?", "A bus is there."),
    record("text", None, "Why?", "A bus is there."),
    {"id": "broken", "conversations": []},
]


@pytest.fixture
def audited(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (64, 48), "gray").save(images / name)
    data = tmp_path / "data.json"
    data.write_text(json.dumps(RECORDS))
    found = audit(data, write_coco(tmp_path), tmp_path / "out", images=images, settings=AuditSettings(0.6))
    assert found.page == tmp_path / "out" / "audit.html"
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == found.figures
    assert "near-duplicates  3 records in 1 groups" in found.summary()
    return tmp_path / "out", found.figures


def test_figures_can_be_counted_by_hand(audited: tuple[Path, dict[str, Any]]) -> None:
    figures = audited[1]
    by_type = figures["invented_objects"]["by_type"]
    # "Is there a bus?" "Yes."; "One dog, and a cat and a cat."; the dog of 3-detail; ATTACK's dog is there
    counts = {
        name: [row[k] for k in ("answers", "naming", "inventing", "objects", "invented")]
        for name, row in by_type.items()
    }
    assert counts == {
        "all": [9, 7, 3, 8, 3],
        "conversation": [5, 3, 2, 4, 2],
        "detail": [3, 3, 1, 3, 1],
        "reasoning": [1, 1, 0, 1, 0],
    }
    assert by_type["all"]["chair_i"] == pytest.approx(3 / 8) and by_type["all"]["chair_s"] == pytest.approx(
        3 / 9
    )
    assert figures["invented_objects"]["by_category"] == {
        "bus": {"invented": 1, "named": 1},
        "cat": {"invented": 1, "named": 1},
        "dog": {"invented": 1, "named": 6},
    }
    assert figures["leaks"]["answers"] == 1 and figures["leaks"]["questions"] == 0
    assert figures["records"] == {"all": 8, "conversation": 2, "detail": 3, "reasoning": 2, "untyped": 1}
    assert (figures["answers"], figures["malformed"]) == (11, 1)
    assert (figures["records_not_joined"], figures["records_without_picture"]) == (1, 1)
    assert figures["lengths"]["turns of a record"]["largest"] == 3
    assert sum(figures["question_kinds"].values()) == 11


def test_near_duplicates_are_grouped(audited: tuple[Path, dict[str, Any]]) -> None:
    twins = audited[1]["near_duplicates"]
    assert (twins["records"], twins["groups"]) == (3, 1)
    group = twins["largest"][0]
    assert group["ids"] == ["1-detail", "2-detail", "3-detail"]
    # 16 shingles each; one changed word is in 3 of them: 13 shared of 19
    assert group["similarity"] == pytest.approx(13 / 19, abs=1e-3)
    assert twins["too_short"] == 5


def test_flags_are_listed_with_their_evidence(audited: tuple[Path, dict[str, Any]]) -> None:
    rows = [json.loads(line) for line in (audited[0] / "flags.jsonl").read_text().splitlines()]
    assert [(row["id"], row["flag"]) for row in rows] == [
        ("1-conversation", INVENTED),
        ("2-conversation", INVENTED),
        ("2-conversation", INVENTED),
        ("2-detail", DUPLICATE),
        ("3-detail", INVENTED),
        ("3-detail", DUPLICATE),
        ("1-reasoning", LEAK_IN_ANSWER),
    ]
    assert rows[0]["evidence"].startswith("bus: 'bus' is asked, and affirmed")
    assert rows[-1]["evidence"] == "The caption"
    problems = [json.loads(line) for line in (audited[0] / "problems.jsonl").read_text().splitlines()]
    assert {problem["reason"] for problem in problems} == {
        "malformed annotation",
        "malformed record",
        "picture without annotation",
    }


def test_the_page_is_whole_and_escaped(audited: tuple[Path, dict[str, Any]]) -> None:
    page = (audited[0] / "audit.html").read_text(encoding="utf-8")
    assert ATTACK not in page and html.escape(ATTACK).replace("&#x27;", "&#39;") in page
    assert page.count("<script") == 1, "only our own"
    links = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", page)
    assert links and all((attribute or style).startswith("data:") for attribute, style in links)
    assert "default-src 'none'" in page and "script-src 'sha256-" in page
    assert page.count("<article") == 8 and page.count("data:image/jpeg") == 5
    assert '<mark class="invented">bus</mark>' in page and '<mark class="leak">The caption</mark>' in page
    assert "dog</text>" in page and "picture is missing" in page
    assert "37.5%" in page and "33.3%" in page


def test_the_script_is_the_one_that_the_page_allows(audited: tuple[Path, dict[str, Any]]) -> None:
    import base64
    import hashlib

    page = (audited[0] / "audit.html").read_text(encoding="utf-8")
    script = page[page.index("<script>") + 8 : page.index("</script>")]
    allowed = re.search(r"'sha256-([^']+)'", page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert allowed and html.unescape(allowed.group(1)) == digest


def test_hostile_names_are_escaped_and_not_opened(tmp_path: Path) -> None:
    hostile = [record(ATTACK, f"../{ATTACK}", ATTACK, ATTACK), record("ok", "1.jpg", "What?", "A dog.")]
    changes = {"categories": [{"id": 18, "name": ATTACK}, {"id": 17, "name": "cat"}]}
    data = tmp_path / f"{'d' * 3}.json"
    data.write_text(json.dumps(hostile))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "1.jpg")
    page = audit(data, write_coco(tmp_path, **changes), tmp_path / "out", images=tmp_path / "images").page
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text and "picture outside the folder of images" in text


def test_without_pictures_the_page_shows_none(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps(RECORDS))
    page = audit(data, write_coco(tmp_path), tmp_path / "out").page.read_text(encoding="utf-8")
    assert "<img" not in page and page.count("<article") == 8


def test_what_cannot_be_audited_stops_and_leaves_nothing(tmp_path: Path) -> None:
    instances, out = write_coco(tmp_path), tmp_path / "out"
    data = tmp_path / "data.json"
    data.write_text(json.dumps([{"id": "broken"}]))
    with pytest.raises(VistuneError, match="no usable record"):
        audit(data, instances, out)
    with pytest.raises(VistuneError, match="Name a file instead"):
        audit(tmp_path, instances, out)
    with pytest.raises(VistuneError, match="no such folder"):
        audit(data, instances, out, images=tmp_path / "none")
    assert not out.exists()
    with pytest.raises(VistuneError, match="not an empty folder"):
        audit(data, instances, tmp_path)


def test_the_same_seed_shows_the_same_records(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([record(str(n), "1.jpg", "What?", f"Thing {n}.") for n in range(60)]))
    pages = [
        audit(
            data, write_coco(tmp_path), tmp_path / f"out{n}", settings=AuditSettings(gallery=5, seed=seed)
        ).page.read_text(encoding="utf-8")
        for n, seed in enumerate((1, 1, 2))
    ]
    assert pages[0] == pages[1] != pages[2] and pages[0].count("<article") == 5


def test_a_reservoir_is_fair() -> None:
    import random

    counts = [0] * 10
    for seed in range(3000):
        reservoir = _Reservoir(3, random.Random(seed))
        for number in range(10):
            reservoir.offer(number, None)  # type: ignore[arg-type]
        for number, _ in reservoir.kept:
            counts[number] += 1
    assert all(800 < count < 1000 for count in counts)


def test_lengths_and_types() -> None:
    lengths = Lengths()
    lengths.counts.update({1: 50, 2: 45, 100: 5})
    figures = lengths.figures()
    assert (figures["count"], figures["mean"], figures["p50"], figures["p95"]) == (100, 6.4, 1, 2)
    assert sum(count for _, _, count in figures["histogram"]) == 100
    assert sample_type("7-detail", Path("x.json")) == "detail" == sample_type("7", Path("detail.json"))
    assert sample_type("7", Path("x.json")) == "untyped"


# The offline teacher's data are nearly free of invention


def test_the_sample_worlds_data_invent_nothing(
    tmp_path: Path, tiny_world: Path, world_annotations: Annotations
) -> None:
    generate(world_annotations, OfflineTeacher(world_annotations.categories), tmp_path / "data")
    found = audit(tmp_path / "data", tiny_world / "instances_train.json", tmp_path / "out")
    chair = found.figures["invented_objects"]["by_type"]
    assert set(chair) == {"all", "conversation", "detail", "reasoning"}
    assert chair["all"]["objects"] > 30 and chair["all"]["invented"] == 0
    assert found.figures["leaks"]["records"] == found.figures["records_not_joined"] == 0


def test_data_about_photographs_name_what_boxes_or_captions_have(
    tmp_path: Path, coco_mini: Path, coco_mini_annotations: Annotations
) -> None:
    generate(coco_mini_annotations, OfflineTeacher(coco_mini_annotations.categories), tmp_path / "data")
    folder = coco_mini / "annotations"
    instances, captions = folder / "instances_train2017.json", folder / "captions_train2017.json"
    both = audit(tmp_path / "data", instances, tmp_path / "both", captions=captions).figures
    assert both["invented_objects"]["by_type"]["all"]["invented"] == 0
    # By boxes alone, what only captions name counts, such as desks, which COCO often leaves without a box.
    boxes = audit(tmp_path / "data", instances, tmp_path / "boxes").figures
    assert 0 < boxes["invented_objects"]["by_type"]["all"]["chair_i"] < 0.02


def test_full_disk_is_told_and_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = tmp_path / "data.json"
    data.write_text(json.dumps(RECORDS))
    monkeypatch.setattr(run_module, "write_page", full)
    with pytest.raises(VistuneError, match=r"out: cannot be written \(No space left on device\)"):
        audit(data, write_coco(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
