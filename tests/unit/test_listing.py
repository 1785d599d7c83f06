"""Annotated images from JSON lines: what is read, and what becomes of every bad line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data.sources.annotated import Annotations
from vistune.data.sources.listing import load_listing
from vistune.errors import VistuneError

DOG = {
    "image": "dog.jpg",
    "captions": ["A dog runs."],
    "boxes": [{"name": "dog", "box": [0.1, 0.2, 0.6, 0.9]}],
}


def boxed(box: list[float], **more: Any) -> dict[str, Any]:
    return {**DOG, "boxes": [{"name": "dog", "box": box, **more}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("dog.jpg", "cat.jpg"):
        Image.new("RGB", (20, 10), "navy").save(tmp_path / "images" / name)
    (tmp_path / "images" / "text.jpg").write_text("no picture")
    return tmp_path


def load(folder: Path, *rows: Any, limit: int | None = None) -> Annotations:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_listing(folder / "list.jsonl", folder / "images", limit)


def problems(annotations: Annotations, folder: Path) -> list[tuple[str, str, str]]:
    """(line, reason, detail)"""
    place = f"{folder / 'list.jsonl'}: line "
    return [(p.place.removeprefix(place), p.reason, p.detail) for p in annotations.problems]


# What is read


def test_line_becomes_an_image_with_captions_and_boxes(folder: Path):
    loaded = load(folder, DOG)
    (image,) = loaded.images
    assert (image.id, image.files) == ("0", ("dog.jpg",))
    assert image.context() == "A dog runs.\n\ndog: [0.1, 0.2, 0.6, 0.9]"
    assert loaded.categories == ("dog",) and loaded.problems == []


def test_captions_alone_and_boxes_alone_are_enough_and_whole_numbers_are_numbers(folder: Path):
    loaded = load(
        folder,
        {"image": "dog.jpg", "captions": ["A  dog\nruns. "]},
        {"image": "cat.jpg", "boxes": [{"name": "cat", "box": [0, 0, 1, 0.5]}]},
    )
    assert [image.context() for image in loaded.images] == ["A dog runs.", "cat: [0, 0, 1, 0.5]"]


def test_several_images_belong_together_and_boxes_say_in_which_they_lie(folder: Path):
    boxes = [{"name": "cat", "box": [0, 0, 1, 1], "picture": 2}, {"name": "dog", "box": [0, 0, 0.5, 1]}]
    (image,) = load(folder, {"image": ["dog.jpg", "cat.jpg"], "captions": ["Pets."], "boxes": boxes}).images
    assert image.files == ("dog.jpg", "cat.jpg")
    assert image.context() == "Pets.\n\npicture 2, cat: [0, 0, 1, 1]\npicture 1, dog: [0, 0, 0.5, 1]"


def test_text_alone_needs_no_image(folder: Path):
    (image,) = load(folder, {"captions": ["A story."]}).images
    assert image.files == () and image.context() == "A story."


def test_own_ids_are_kept(folder: Path):
    assert [i.id for i in load(folder, {**DOG, "id": "rex"}, {**DOG, "id": 7}).images] == ["rex", "7"]


def test_limit_takes_the_first_lines_usable_or_not(folder: Path):
    loaded = load(folder, DOG, "{broken", DOG, limit=2)
    assert len(loaded.images) == 1 and len(loaded.problems) == 1


# Lines and parts that are set aside


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("{broken", "not valid JSON", "{broken"),
        ("[1, 2]", "malformed line", "the line"),
        ('"dog.jpg"', "malformed line", "the line"),
        ("null", "malformed line", "the line"),
        ({**DOG, "captions": "A dog."}, "malformed line", "captions: "),
        ({**DOG, "captions": [5]}, "malformed line", "captions.0: "),
        ({**DOG, "image": 5}, "malformed line", "image"),
        ({**DOG, "image": None}, "malformed line", "image"),
        ({**DOG, "caption": "A dog."}, "malformed line", "caption: Extra"),
        ({**DOG, "id": True}, "malformed line", "id"),
        ({**DOG, "boxes": [{"name": "dog"}]}, "malformed line", "boxes.0.box: Field required"),
        ({**DOG, "boxes": [{"box": [0, 0, 1, 1]}]}, "malformed line", "boxes.0.name: Field required"),
        ({**DOG, "boxes": [{"name": "dog", "box": [0, 0, 1]}]}, "malformed line", "boxes.0.box: "),
        ({**DOG, "boxes": [{"name": "dog", "box": [0, 0, 1, "1"]}]}, "malformed line", "boxes.0.box.3: "),
        (boxed([0, 0, 1, float("nan")]), "malformed line", "boxes.0.box.3: "),
        (boxed([0, 0, 1, float("inf")]), "malformed line", "boxes.0.box.3: "),
        (boxed([0, 0, 1, 1], picture=0), "malformed line", "boxes.0.picture: "),
        ({**DOG, "boxes": [{"name": "\ud800", "box": [0, 0, 1, 1]}]}, "malformed line", "boxes.0.name: "),
        ({**DOG, "id": "\ud800"}, "malformed line", "id"),
        ({**DOG, "image": "bird.jpg"}, "picture is missing", "bird.jpg"),
        ({**DOG, "image": ["dog.jpg", "bird.jpg"]}, "picture is missing", "bird.jpg"),
        ({**DOG, "image": "text.jpg"}, "not a picture", "text.jpg"),
        ({**DOG, "image": ""}, "`image` is not a file name", ""),
        ({**DOG, "image": "../list.jsonl"}, "picture outside the folder of images", "../list.jsonl"),
        ({"image": "dog.jpg"}, "image without annotation", "dog.jpg"),
        ({"image": "dog.jpg", "captions": [], "boxes": []}, "image without annotation", "dog.jpg"),
    ],
)  # fmt: skip
def test_bad_line_is_set_aside_with_its_number_and_the_others_are_kept(folder: Path, row, reason, detail):
    loaded = load(folder, {**DOG, "id": "before"}, row, {**DOG, "id": "after"})
    assert [image.id for image in loaded.images] == ["before", "after"]
    ((line, found, told),) = problems(loaded, folder)
    assert (line, found) == ("2", reason) and detail in told


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ({"name": "dog", "box": [0.1, 0.1, 1.2, 0.5]}, "box outside its picture"),
        ({"name": "dog", "box": [10, 10, 200, 200]}, "box outside its picture"),
        ({"name": "dog", "box": [-0.1, 0, 1, 1]}, "box outside its picture"),
        ({"name": "dog", "box": [0.5, 0.1, 0.5, 0.5]}, "box without area"),
        ({"name": "dog", "box": [0.5, 0.1, 0.2, 0.5]}, "box without area"),
        ({"name": "dog", "box": [0, 0, 1, 1], "picture": 2}, "box in a picture that is not there"),
        ({"name": " \n", "box": [0, 0, 1, 1]}, "box without a name"),
    ],
)
def test_bad_box_is_set_aside_and_the_image_keeps_its_good_ones(folder: Path, box: Any, reason: str):
    loaded = load(folder, {**DOG, "boxes": [*DOG["boxes"], box]})
    assert [(line, found) for line, found, _ in problems(loaded, folder)] == [("1", reason)]
    assert [len(image.boxes) for image in loaded.images] == [1]


def test_name_of_a_box_stands_in_one_line(folder: Path):
    (image,) = load(
        folder, {"image": "dog.jpg", "boxes": [{"name": "hot\n dog ", "box": [0, 0, 1, 1]}]}
    ).images
    assert image.context() == "hot dog: [0, 0, 1, 1]"


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (" ", "empty caption"),
        ("A <image>.", "caption contains <image>"),
        ("A dog. " * 1_500, "caption is too long"),
    ],
)
def test_bad_caption_is_set_aside_and_the_image_keeps_its_good_ones(folder: Path, caption: str, reason: str):
    loaded = load(folder, {**DOG, "captions": [caption, "A dog."]})
    assert [(line, found) for line, found, _ in problems(loaded, folder)] == [("1", reason)]
    assert loaded.images[0].captions == ("A dog.",)


def test_id_used_twice_is_set_aside_for_samples_are_told_apart_by_it(folder: Path):
    loaded = load(folder, {**DOG, "id": "a"}, {**DOG, "image": "cat.jpg", "id": "a"}, {**DOG, "id": "3"}, DOG)
    assert [(image.id, image.file) for image in loaded.images] == [("a", "dog.jpg"), ("3", "dog.jpg")]
    assert problems(loaded, folder) == [("2", "id used twice", "a"), ("4", "id used twice", "3")]


def test_line_that_is_not_utf8_is_set_aside_with_its_number(folder: Path):
    (folder / "list.jsonl").write_bytes(json.dumps(DOG).encode() + b"\n\xff\xfe\n")
    loaded = load_listing(folder / "list.jsonl", folder / "images")
    assert len(loaded.images) == 1
    ((line, reason, detail),) = problems(loaded, folder)
    assert (line, reason) == ("2", "not UTF-8 text") and "0xff" in detail


# What ends the run


def test_nothing_usable_is_an_error_that_tells_the_first_problem(folder: Path):
    with pytest.raises(
        VistuneError, match=r"list\.jsonl: no usable line\. First problem: .*line 1: not valid JSON"
    ):
        load(folder, "{broken", "{worse")


def test_empty_file_and_missing_file_are_errors(folder: Path):
    with pytest.raises(VistuneError, match="no usable line"):
        load(folder, "")
    with pytest.raises(VistuneError, match=r"none\.jsonl: cannot be read"):
        load_listing(folder / "none.jsonl", folder / "images")


def test_file_in_another_encoding_is_an_error_that_names_it(folder: Path):
    (folder / "list.jsonl").write_bytes(json.dumps(DOG).encode("utf-16"))
    with pytest.raises(VistuneError, match=r"list\.jsonl: line 1: .*found UTF-16.*iconv"):
        load_listing(folder / "list.jsonl", folder / "images")
