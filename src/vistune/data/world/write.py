"""Save a sample world as COCO does: images, captions_{train,val}.json, instances_{train,val}.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vistune.data.world.captions import captions
from vistune.data.world.render import Drawn, render
from vistune.data.world.scene import CANVAS, Scene, catalogue, draw_scene
from vistune.folders import refuse_used
from vistune.processes import spread
from vistune.progress import track

PARTS = ("train", "val")
_JPEG_QUALITY = 92
_INFO = {
    "description": "vistune's sample world: emoji scenes",
    "contributor": "Emoji pictures: Twemoji by Twitter, Inc and other contributors, CC-BY 4.0",
    "version": "1",
}
_LICENSES = [{"id": 1, "name": "CC-BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}]


@dataclass(frozen=True)
class _Painted:
    scene: Scene
    file: str
    drawn: list[Drawn]
    captions: list[str]


def write_world(out: Path, train: int, val: int, seed: int, workers: int = 2) -> None:
    """Write ``train`` + ``val`` scenes below ``out``. The same arguments give the same bytes.

    Raises:
        VistuneError: ``out`` already holds something.
    """
    refuse_used(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    tasks = [(part, index) for part, count in zip(PARTS, (train, val), strict=True) for index in range(count)]
    paint = partial(_paint_one, out / "images", seed)
    painted = list(track(spread(paint, tasks, workers), "painting scenes", total=len(tasks)))
    for part in PARTS:
        mine = [item for item in painted if item.scene.key.startswith(f"{part}/")]
        if mine:
            _write_json(out / f"captions_{part}.json", _captions_file(mine))
            _write_json(out / f"instances_{part}.json", _instances_file(mine))


def _paint_one(folder: Path, seed: int, task: tuple[str, int]) -> _Painted:
    part, index = task
    scene = draw_scene(part, seed, index)
    picture, drawn = render(scene)
    file = f"{part}_{index:06d}.jpg"
    picture.save(folder / file, quality=_JPEG_QUALITY)
    return _Painted(scene, file, drawn, captions(scene, drawn))


def _image_records(painted: list[_Painted]) -> list[dict[str, Any]]:
    return [
        {"id": number, "file_name": item.file, "width": CANVAS, "height": CANVAS, "license": 1}
        for number, item in enumerate(painted, 1)
    ]


def _captions_file(painted: list[_Painted]) -> dict[str, Any]:
    texts = ((number, text) for number, item in enumerate(painted, 1) for text in item.captions)
    return {
        "info": _INFO,
        "licenses": _LICENSES,
        "images": _image_records(painted),
        "annotations": [
            {"id": count, "image_id": number, "caption": text}
            for count, (number, text) in enumerate(texts, 1)
        ],
    }


def _instances_file(painted: list[_Painted]) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(catalogue().categories, 1)}
    return {
        "info": _INFO,
        "licenses": _LICENSES,
        "images": _image_records(painted),
        "annotations": list(_instance_records(painted, ids)),
        "categories": [
            {"id": ids[name], "name": name, "supercategory": category.supercategory}
            for name, category in catalogue().categories.items()
        ],
    }


def _instance_records(painted: list[_Painted], ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    things = ((number, drawn) for number, item in enumerate(painted, 1) for drawn in item.drawn)
    for count, (number, drawn) in enumerate(things, 1):
        yield {
            "id": count,
            "image_id": number,
            "category_id": ids[drawn.category],
            "bbox": list(drawn.bbox),
            "area": drawn.area,
            "iscrowd": 0,
        }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
