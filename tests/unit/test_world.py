"""The sample world: repeatable, COCO's format, boxes that fit what is painted, captions that are true."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vistune.data.world.captions import captions
from vistune.data.world.render import Drawn, render
from vistune.data.world.scene import CANVAS, Scene, catalogue, draw_scene
from vistune.data.world.write import write_world
from vistune.errors import VistuneError

WORLD_TRAIN, WORLD_VAL, WORLD_SEED = 8, 3, 7  # as the shared world is written
PARTS = ("train", "val", "starter-text", "starter-vision")
NUMBER_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def nameless(scene: Scene) -> Scene:
    return replace(scene, key="")


def scenes(count: int, part: str = "train", seed: int = 3) -> list[Scene]:
    return [draw_scene(part, seed, index) for index in range(count)]


@pytest.fixture(scope="module")
def told() -> list[tuple[list[Drawn], list[str]]]:
    """What is drawn in a hundred scenes, and their captions."""
    result = []
    for scene in scenes(100):
        _, drawn = render(scene)
        result.append((drawn, captions(scene, drawn)))
    return result


# Writing


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(tiny_world: Path, tmp_path: Path):
    write_world(tmp_path / "again", WORLD_TRAIN, WORLD_VAL, WORLD_SEED, workers=2)
    assert contents(tmp_path / "again") == contents(tiny_world)


def test_another_seed_gives_other_pictures_and_annotations(tiny_world: Path, tmp_path: Path):
    write_world(tmp_path / "other", WORLD_TRAIN, WORLD_VAL, WORLD_SEED + 1, workers=1)
    ours, theirs = contents(tiny_world), contents(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] == theirs[name]] == []


def test_world_holds_exactly_the_files_that_were_asked_for(tiny_world: Path):
    pictures = [f"train_{i:06d}.jpg" for i in range(WORLD_TRAIN)] + [
        f"val_{i:06d}.jpg" for i in range(WORLD_VAL)
    ]
    tables = [f"{kind}_{part}.json" for kind in ("captions", "instances") for part in ("train", "val")]
    assert sorted(contents(tiny_world)) == sorted([*(f"images/{name}" for name in pictures), *tables])


def test_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(VistuneError, match=f"{re.escape(str(tmp_path))}: .*Choose another --out"):
        write_world(tmp_path, 2, 1, seed=0)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


# COCO's format


@pytest.mark.parametrize("part", ["train", "val"])
def test_captions_file_has_cocos_fields_and_five_captions_an_image(tiny_world: Path, part: str):
    content = read(tiny_world / f"captions_{part}.json")
    assert content.keys() == {"info", "licenses", "images", "annotations"}
    assert all(record.keys() == {"id", "image_id", "caption"} for record in content["annotations"])
    told_images = [record["image_id"] for record in content["annotations"]]
    assert told_images == [image["id"] for image in content["images"] for _ in range(5)]


@pytest.mark.parametrize("part", ["train", "val"])
def test_instances_file_has_cocos_fields(tiny_world: Path, part: str):
    content = read(tiny_world / f"instances_{part}.json")
    fields = {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
    assert content.keys() == {"info", "licenses", "images", "annotations", "categories"}
    assert all(fields <= record.keys() for record in content["annotations"])
    assert all(record.keys() == {"id", "name", "supercategory"} for record in content["categories"])
    assert all({"id", "file_name", "width", "height"} <= record.keys() for record in content["images"])


@pytest.mark.parametrize("table", ["captions_train", "captions_val", "instances_train", "instances_val"])
def test_ids_are_unique_and_refer_to_something(tiny_world: Path, table: str):
    content = read(tiny_world / f"{table}.json")
    images = [image["id"] for image in content["images"]]
    ids = [record["id"] for record in content["annotations"]]
    assert len(set(images)) == len(images)
    assert len(set(ids)) == len(ids)
    assert {record["image_id"] for record in content["annotations"]} == set(images)
    if "categories" in content:
        categories = [category["id"] for category in content["categories"]]
        assert len(set(categories)) == len(categories)
        assert {record["category_id"] for record in content["annotations"]} <= set(categories)


def test_pictures_have_the_size_that_is_written_of_them(tiny_world: Path):
    for image in read(tiny_world / "instances_train.json")["images"]:
        with Image.open(tiny_world / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_categories_of_the_files_are_at_least_48_single_words(tiny_world: Path):
    names = [category["name"] for category in read(tiny_world / "instances_val.json")["categories"]]
    assert len(set(names)) == len(names) >= 48
    assert [name for name in names if not re.fullmatch("[a-z]+", name)] == []


def test_themes_speak_only_of_categories_and_backgrounds_that_exist():
    for theme in catalogue().themes:
        assert set(theme.categories) <= set(catalogue().categories), theme.name
        assert set(theme.backgrounds) <= set(catalogue().backgrounds), theme.name


# Scenes


def test_parts_of_the_world_never_share_a_scene():
    drawn = {part: {nameless(scene) for scene in scenes(400, part)} for part in PARTS}
    for one, other in combinations(PARTS, 2):
        assert drawn[one] & drawn[other] == set(), f"{one} and {other}"


def test_no_scene_of_a_part_comes_twice():
    assert len({nameless(scene) for scene in scenes(400)}) == 400


def test_scene_is_drawn_again_from_its_part_seed_and_index():
    assert draw_scene("val", 5, 17) == draw_scene("val", 5, 17)
    assert nameless(draw_scene("val", 5, 17)) != nameless(draw_scene("val", 6, 17))


def test_objects_of_a_scene_keep_their_distance():
    for scene in scenes(300):
        for one, other in combinations(scene.objects, 2):
            assert max(abs(one.x - other.x), abs(one.y - other.y)) >= 54, scene


def test_scenes_hold_one_to_five_objects_and_every_category_occurs():
    drawn = [scene.objects for scene in scenes(1500)]
    assert {len(objects) for objects in drawn} == {1, 2, 3, 4, 5}
    assert {placed.category for objects in drawn for placed in objects} == set(catalogue().categories)


# Pixels and boxes


def test_boxes_lie_inside_the_canvas():
    for scene in scenes(100):
        for item in render(scene)[1]:
            x, y, width, height = item.bbox
            assert x >= 0 and y >= 0 and x + width <= CANVAS and y + height <= CANVAS, item
            assert 0 < item.area <= width * height, item


def test_boxes_are_tight_around_the_pixels_that_an_object_changes():
    """Each object is painted alone; the soft rim of an emoji may stick out by a few pixels."""
    for scene in scenes(25):
        background = np.asarray(render(replace(scene, objects=()))[0])
        for placed in scene.objects:
            picture, (item,) = render(replace(scene, objects=(placed,)))
            rows, columns = np.nonzero((np.asarray(picture) != background).any(axis=2))
            x, y, width, height = item.bbox
            margins = (x - columns.min(), y - rows.min())
            margins += (columns.max() + 1 - x - width, rows.max() + 1 - y - height)
            assert all(0 <= margin <= 4 for margin in margins), (item, margins)


def test_every_placed_object_is_drawn_and_in_its_order():
    for scene in scenes(50):
        assert [item.category for item in render(scene)[1]] == [placed.category for placed in scene.objects]


def test_every_background_is_painted_and_no_two_look_alike():
    painted = [
        np.asarray(render(Scene("same key", name, None, ()))[0], dtype=np.int64)
        for name in catalogue().backgrounds
    ]
    for one, other in combinations(painted, 2):
        assert np.abs(one - other).mean() > 5


# Captions


def test_five_captions_of_a_scene_are_all_worded_differently(told):
    for _, texts in told:
        words = {" ".join(re.findall("[a-z]+", text.lower())) for text in texts}
        assert len(texts) == len(words) == 5, texts


def test_captions_written_to_the_file_are_five_different_ones_an_image(tiny_world: Path):
    by_image: dict[int, set[str]] = {}
    for record in read(tiny_world / "captions_train.json")["annotations"]:
        by_image.setdefault(record["image_id"], set()).add(record["caption"].lower())
    assert [len(texts) for texts in by_image.values()] == [5] * WORLD_TRAIN


def test_captions_are_sentences(told):
    for _, texts in told:
        assert all(re.fullmatch(r"[A-Z][^.]*\.", text) for text in texts), texts


def test_number_of_things_in_a_caption_is_the_number_drawn(told):
    checked = 0
    for drawn, texts in told:
        if match := re.match(r"(\w+) things: ", texts[3]):
            assert NUMBER_WORDS[match[1].lower()] == len(drawn), texts[3]
            checked += 1
    assert checked > 50


def test_relation_in_a_caption_holds_between_the_boxes(told):
    checked = 0
    pattern = r"(?:there is )?an? (\w+) (to the left of|to the right of|above|below) an? (\w+)"
    for drawn, texts in told:
        single = {item.category: item for item in drawn if _count(drawn, item.category) == 1}
        match = re.match(pattern, texts[4].lower())
        if match and match[1] in single and match[3] in single:
            assert _holds(match[2], single[match[1]], single[match[3]]), texts[4]
            checked += 1
    assert checked > 30


def _count(drawn: list[Drawn], category: str) -> int:
    return sum(item.category == category for item in drawn)


def _holds(direction: str, one: Drawn, other: Drawn) -> bool:
    dx = (one.bbox[0] + one.bbox[2] / 2) - (other.bbox[0] + other.bbox[2] / 2)
    dy = (one.bbox[1] + one.bbox[3] / 2) - (other.bbox[1] + other.bbox[3] / 2)
    return {"to the left of": dx < 0, "to the right of": dx > 0, "above": dy < 0, "below": dy > 0}[direction]
