"""COCO's files -> annotated images: the text a teacher sees, and what becomes of every bad row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.sources.coco import load_coco
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems

STREET = {"id": 7, "file_name": "street.jpg", "width": 500, "height": 500}
ROOM = {"id": 3, "file_name": "room.jpg", "width": 200, "height": 100}
HYDRANT, CAT = {"id": 11, "name": "fire hydrant"}, {"id": 17, "name": "cat"}


class CocoFolder:
    """Two pictures and their annotations, which a test may spoil before they are loaded."""

    def __init__(self, folder: Path) -> None:
        self.captions_path, self.instances_path = folder / "captions.json", folder / "instances.json"
        self.images = folder / "images"
        self.images.mkdir()
        for record in (STREET, ROOM):
            picture = Image.new("RGB", (record["width"], record["height"]), "navy")
            picture.save(self.images / record["file_name"])
        self.captions: dict[str, Any] = {
            "images": [STREET, ROOM],
            "annotations": [
                {"id": 1, "image_id": 7, "caption": "A hydrant stands on a street."},
                {"id": 2, "image_id": 3, "caption": "A cat sleeps."},
                {"id": 3, "image_id": 7, "caption": "A red\nfire  hydrant. "},
            ],
        }
        self.instances: dict[str, Any] = {
            "images": [STREET, ROOM],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 11, "bbox": [163, 306, 50, 54]},
                {"id": 2, "image_id": 3, "category_id": 17, "bbox": [0, 25.5, 200, 50]},
            ],
            "categories": [HYDRANT, CAT],
        }

    def load(self) -> Annotations:
        self.captions_path.write_text(json.dumps(self.captions), encoding="utf-8")
        self.instances_path.write_text(json.dumps(self.instances), encoding="utf-8")
        return load_coco(self.captions_path, self.instances_path, self.images)

    def refuse(self) -> str:
        """The message of the error that loading ends with."""
        with pytest.raises(VistuneError) as caught:
            self.load()
        return str(caught.value)


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


# The text a teacher sees


@pytest.mark.parametrize(
    ("corners", "line"),
    [
        ((0.326, 0.612, 0.426, 0.72), "fire hydrant: [0.326, 0.612, 0.426, 0.72]"),
        ((0.0, 0.5, 1.0, 1.0), "fire hydrant: [0, 0.5, 1, 1]"),
        ((0.12345, 0.1996, 0.25, 0.3), "fire hydrant: [0.123, 0.2, 0.25, 0.3]"),
    ],
)
def test_box_line_has_at_most_three_decimals_and_no_trailing_zeros(corners, line: str):
    assert Box("fire hydrant", corners).line() == line


def test_box_knows_its_center_and_its_share_of_the_picture():
    box = Box("cat", (0.25, 0.5, 0.75, 1.0))
    assert box.center == (0.5, 0.75)
    assert box.area == 0.25


def test_context_is_the_captions_then_a_blank_line_then_the_boxes():
    boxes = (Box("cat", (0.0, 0.25, 1.0, 0.5)), Box("dog", (0.1, 0.2, 0.3, 0.4)))
    image = AnnotatedImage("1", ("a.jpg",), ("A cat.", "A dog."), boxes)
    assert image.context() == "A cat.\nA dog.\n\ncat: [0, 0.25, 1, 0.5]\ndog: [0.1, 0.2, 0.3, 0.4]"
    assert image.context(with_boxes=False) == "A cat.\nA dog."


def test_context_of_boxes_alone_begins_with_the_first_box():
    image = AnnotatedImage("1", ("a.jpg",), (), (Box("cat", (0.0, 0.25, 1.0, 0.5)),))
    assert image.context() == "cat: [0, 0.25, 1, 0.5]"


# What is loaded


def test_images_come_in_the_order_of_their_ids_with_their_own_captions_and_boxes(coco: CocoFolder):
    annotations = coco.load()
    room, street = annotations.images
    assert (room.id, room.file, room.captions) == ("3", "room.jpg", ("A cat sleeps.",))
    assert (street.id, street.file) == ("7", "street.jpg")
    assert annotations.categories == ("fire hydrant", "cat")
    assert annotations.problems == []


def test_corners_are_shares_of_the_pictures_own_width_and_height(coco: CocoFolder):
    room, street = coco.load().images
    assert [box.line() for box in street.boxes] == ["fire hydrant: [0.326, 0.612, 0.426, 0.72]"]
    assert [box.line() for box in room.boxes] == ["cat: [0, 0.255, 1, 0.755]"]


def test_a_caption_becomes_one_line_with_single_spaces(coco: CocoFolder):
    street = coco.load().images[1]
    assert street.captions == ("A hydrant stands on a street.", "A red fire hydrant.")


def test_captions_alone_or_instances_alone_are_enough(coco: CocoFolder):
    coco.load()
    told = load_coco(coco.captions_path, None, coco.images)
    boxed = load_coco(None, coco.instances_path, coco.images)
    assert [(len(image.captions), len(image.boxes)) for image in told.images] == [(1, 0), (2, 0)]
    assert [(len(image.captions), len(image.boxes)) for image in boxed.images] == [(0, 1), (0, 1)]


def test_real_coco_files_load_without_a_problem(coco_mini_annotations: Annotations):
    assert len(coco_mini_annotations.images) == 80
    assert len(coco_mini_annotations.categories) == 80
    assert sum(len(image.captions) for image in coco_mini_annotations.images) == 400
    assert coco_mini_annotations.problems == []


# Rows that are set aside


def test_annotation_of_an_unknown_image_is_set_aside_in_both_files(coco: CocoFolder):
    coco.captions["annotations"].append({"image_id": 99, "caption": "Nowhere."})
    coco.instances["annotations"].append({"image_id": 98, "category_id": 17, "bbox": [0, 0, 9, 9]})
    problems = coco.load().problems
    assert [(p.place, p.reason, p.detail) for p in problems] == [
        (f"{coco.captions_path}: annotations[3]", "annotation of an unknown image", "99"),
        (f"{coco.instances_path}: annotations[2]", "annotation of an unknown image", "98"),
    ]


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([150, 50, 60, 10], "box outside its picture"),
        ([50, 95, 10, 20], "box outside its picture"),
        ([-5, 0, 20, 20], "box outside its picture"),
        ([10, 10, 0, 20], "box without area"),
        ([10, 10, 20, 0], "box without area"),
        ([10, 10, -20, 20], "box without area"),
        ([10, 10, 20], "box is not [x, y, w, h]"),
        ([10, 10, 20, "20"], "box is not [x, y, w, h]"),
        (None, "box is not [x, y, w, h]"),
    ],
)
def test_bad_box_is_set_aside_and_the_image_keeps_its_good_ones(coco: CocoFolder, bbox: Any, reason: str):
    coco.instances["annotations"].append({"image_id": 3, "category_id": 17, "bbox": bbox})
    annotations = coco.load()
    place = f"{coco.instances_path}: annotations[2]"
    assert [(p.place, p.reason) for p in annotations.problems] == [(place, reason)]
    assert [len(image.boxes) for image in annotations.images] == [1, 1]


def test_box_that_sticks_out_by_a_rounding_error_is_clipped(coco: CocoFolder):
    coco.instances["annotations"][1]["bbox"] = [-0.6, 0, 200.9, 100.4]
    annotations = coco.load()
    assert annotations.images[0].boxes[0].corners == (0.0, 0.0, 1.0, 1.0)
    assert annotations.problems == []


def test_unknown_category_is_set_aside(coco: CocoFolder):
    coco.instances["annotations"][0]["category_id"] = 5
    annotations = coco.load()
    assert [(p.reason, p.detail) for p in annotations.problems] == [("unknown category", "5")]
    assert annotations.images[1].boxes == ()


def test_empty_caption_is_set_aside(coco: CocoFolder):
    coco.captions["annotations"][2]["caption"] = " \n"
    annotations = coco.load()
    assert count_by_reason(annotations.problems) == {"empty caption": 1}
    assert annotations.images[1].captions == ("A hydrant stands on a street.",)


def spoil_by_removal(path: Path) -> None:
    path.unlink()


def spoil_by_truncation(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def spoil_by_text(path: Path) -> None:
    path.write_text("this is no picture", encoding="utf-8")


def spoil_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_by_removal, "picture is missing"),
        (spoil_by_truncation, "broken picture"),
        (spoil_by_text, "not a picture"),
        (spoil_by_emptying, "not a picture"),
    ],
)
def test_image_without_a_usable_picture_is_set_aside_by_its_file_name(coco: CocoFolder, spoil, reason: str):
    spoil(coco.images / "street.jpg")
    annotations = coco.load()
    assert [(p.place, p.reason) for p in annotations.problems] == [("street.jpg", reason)]
    assert [image.id for image in annotations.images] == ["3"]


def test_image_that_nothing_was_said_about_is_set_aside(coco: CocoFolder):
    coco.captions["images"] = [STREET, ROOM, {**ROOM, "id": 4}]
    problems = coco.load().problems
    assert [(p.place, p.reason) for p in problems] == [("room.jpg", "image without annotation")]


def test_problems_are_counted_by_reason_most_frequent_first(coco: CocoFolder):
    coco.instances["annotations"] += [
        {"image_id": 3, "category_id": 17, "bbox": [10, 10, 0, 5]},
        {"image_id": 3, "category_id": 17, "bbox": [190, 10, 50, 5]},
        {"image_id": 3, "category_id": 17, "bbox": [10, 10, 5, 0]},
    ]
    counts = count_by_reason(coco.load().problems)
    assert list(counts.items()) == [("box without area", 2), ("box outside its picture", 1)]


def test_problems_are_written_one_json_line_each(tmp_path: Path):
    write_problems(tmp_path / "some.jsonl", [Problem("7", "brøken", "x"), Problem("8", "missing")])
    assert (tmp_path / "some.jsonl").read_text(encoding="utf-8") == (
        '{"place": "7", "reason": "brøken", "detail": "x"}\n'
        '{"place": "8", "reason": "missing", "detail": ""}\n'
    )


def test_no_problems_still_leave_a_file(tmp_path: Path):
    write_problems(tmp_path / "none.jsonl", [])
    assert (tmp_path / "none.jsonl").read_bytes() == b""


# What ends the run


def test_missing_annotation_file_is_an_error_that_names_it(coco: CocoFolder):
    coco.load()
    missing = coco.images.parent / "absent.json"
    with pytest.raises(VistuneError, match=rf"{re.escape(str(missing))}: cannot be read \(No such file"):
        load_coco(missing, coco.instances_path, coco.images)


def test_broken_json_is_an_error_with_line_and_column(coco: CocoFolder):
    coco.load()
    coco.captions_path.write_text('{\n  "images": [],\n  "annotations": [}\n', encoding="utf-8")
    with pytest.raises(VistuneError, match=r"captions\.json: line 3, column 19: not valid JSON"):
        load_coco(coco.captions_path, coco.instances_path, coco.images)


def test_file_that_is_not_utf8_is_an_error_that_names_it(coco: CocoFolder):
    coco.load()
    coco.captions_path.write_bytes(b'{"images": "\xff"}')
    with pytest.raises(VistuneError, match=r"captions\.json: not UTF-8 text, after line 1"):
        load_coco(coco.captions_path, None, coco.images)


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_missing_list_is_an_error_that_names_it(coco: CocoFolder, name: str):
    del coco.instances[name]
    message = coco.refuse()
    assert message == f"{coco.instances_path}: expected COCO's format; the list `{name}` is missing."


@pytest.mark.parametrize("content", [[], "text", {"images": {}, "annotations": []}])
def test_json_of_another_shape_is_refused(coco: CocoFolder, content: Any):
    coco.captions = content
    assert "captions.json: " in (message := coco.refuse())
    assert "expected COCO's format" in message


def test_caption_record_without_its_keys_is_an_error_with_its_number(coco: CocoFolder):
    coco.captions["annotations"][1] = {"id": 2, "text": "A cat sleeps."}
    assert coco.refuse() == (
        f"{coco.captions_path}: annotations[1]: expected `image_id` (int), `caption` (str); "
        "`image_id` is 'missing'."
    )


def test_instance_record_without_its_keys_is_an_error_with_its_number(coco: CocoFolder):
    del coco.instances["annotations"][1]["bbox"]
    message = coco.refuse()
    assert f"{coco.instances_path}: annotations[1]: expected " in message and "`bbox` is 'missing'" in message


def test_image_record_without_its_keys_is_an_error_with_its_number(coco: CocoFolder):
    coco.captions["images"] = [STREET, {"id": 3, "file_name": "room.jpg"}]
    assert f"{coco.captions_path}: images[1]: expected `id` (int), `file_name` (str), " in coco.refuse()


def test_picture_without_extent_is_an_error_with_its_record_number(coco: CocoFolder):
    coco.captions["images"] = [{**STREET, "width": 0}, ROOM]
    assert coco.refuse() == f"{coco.captions_path}: images[0]: width and height must be positive."


def test_nothing_usable_is_an_error_that_tells_the_first_problem(coco: CocoFolder):
    (coco.images / "street.jpg").unlink()
    (coco.images / "room.jpg").unlink()
    assert coco.refuse() == (
        f"{coco.captions_path}: no usable image is left of 2. First problem: room.jpg: picture is missing."
    )


def test_missing_folder_of_images_is_an_error(coco: CocoFolder):
    coco.load()
    with pytest.raises(VistuneError, match="nowhere: no such folder of images"):
        load_coco(coco.captions_path, None, coco.images.parent / "nowhere")


def test_neither_captions_nor_instances_is_an_error(coco: CocoFolder):
    with pytest.raises(VistuneError, match="--captions, --instances or both"):
        load_coco(None, None, coco.images)


# Rows of the wrong shape, and pictures that are not what was annotated


@pytest.mark.parametrize(
    ("file", "table", "row", "field"),
    [
        ("captions", "annotations", 5, "image_id"),
        ("captions", "annotations", {"image_id": 3, "caption": None}, "caption"),
        ("captions", "annotations", {"image_id": [3], "caption": "A cat."}, "image_id"),
        ("captions", "images", None, "id"),
        ("captions", "images", {**ROOM, "width": "50"}, "width"),
        ("captions", "images", {**ROOM, "file_name": 5}, "file_name"),
        ("instances", "categories", {"id": 17}, "name"),
    ],
)
def test_row_of_the_wrong_type_is_an_error_with_its_place(coco: CocoFolder, file, table, row, field):
    getattr(coco, file)[table][1] = row
    message = coco.refuse()
    assert f"{file}.json: {table}[1]: expected" in message and f"`{field}` is" in message


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([float("nan"), 1, 20, 20], "box is not [x, y, w, h]"),
        ([1, 1, float("inf"), 20], "box is not [x, y, w, h]"),
        ([ROOM["width"] + 0.3, 1, 0.4, 5], "box without area"),
        ([10, 1, 0.01, 5], "box without area"),
    ],
)
def test_box_that_is_no_box_once_it_is_written_down_is_set_aside(coco: CocoFolder, bbox, reason):
    coco.instances["annotations"][1]["bbox"] = bbox
    assert [problem.reason for problem in coco.load().problems] == [reason]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("A cat <image> sleeps.", "caption contains <image>"),
        ("A \ud800 cat.", "caption is not valid Unicode"),
        (" \n", "empty caption"),
        ("A cat. " * 1_500, "caption is too long"),
    ],
)
def test_caption_that_cannot_be_used_is_set_aside(coco: CocoFolder, caption: str, reason: str):
    coco.captions["annotations"][0]["caption"] = caption
    loaded = coco.load()
    assert [problem.reason for problem in loaded.problems] == [reason]
    assert [image.captions for image in loaded.images] == [("A cat sleeps.",), ("A red fire hydrant.",)]


def test_picture_outside_the_folder_is_set_aside(coco: CocoFolder):
    outside = {**STREET, "file_name": "../street.jpg"}
    (coco.images / STREET["file_name"]).rename(coco.images.parent / "street.jpg")
    coco.captions["images"][0] = coco.instances["images"][0] = outside
    assert [problem.reason for problem in coco.load().problems] == ["picture outside the folder of images"]


def test_picture_of_another_size_than_annotated_is_set_aside(coco: CocoFolder):
    Image.new("RGB", (20, 10)).save(coco.images / ROOM["file_name"])
    (problem,) = coco.load().problems
    assert problem.reason == "picture is not of the annotated size"
    assert problem.detail == f"20x10, annotated {ROOM['width']}x{ROOM['height']}"


def test_box_around_a_crowd_says_so(coco: CocoFolder):
    coco.instances["annotations"][1]["iscrowd"] = 1
    (room,) = (image for image in coco.load().images if image.file == ROOM["file_name"])
    assert room.boxes[0].crowd
    assert room.context().splitlines()[-1].startswith("cat (crowd): [0, ")
