"""Time and memory of loading annotation files of the size of COCO's train2017.

    python benchmarks/coco.py --json FILE [--scale 1.0] [--generate]

The files are synthetic and have the real ones' counts and fields: 118,287 images, 591,753 captions and
860,001 instances whose outlines make the file about 450 MB. All the pictures' names lead to a few hundred
real files by hard links. A process of its own loads captions and instances, as ``vistune generate`` does
before anything else: ``load_seconds``, ``load_peak_mb``. A second one loads what ``vistune audit`` needs of
them: ``audit_seconds``, ``audit_peak_mb``. ``--generate`` runs the whole command with the offline teacher,
too: ``generate_seconds``, ``generate_peak_mb``, ``samples``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

try:
    from benchmarks.check import SIZE, write_pictures
except ModuleNotFoundError:  # run by its path
    from check import SIZE, write_pictures

IMAGES, CAPTIONS, INSTANCES, CATEGORIES = 118_287, 591_753, 860_001, 80
OUTLINES, POINTS = 400, 22  # different polygons; points of one, about
WORDS = """a man riding wave on top of surfboard two dogs play with frisbee in the park plate food table
and glass wine kitchen stove sink white train station people umbrella rain street red bus""".split()

_LOAD = """
import json, resource, sys, time
from pathlib import Path
from vistune.data.sources.coco import load_coco
captions, instances, images = map(Path, sys.argv[1:])
start = time.perf_counter()
loaded = load_coco(captions, instances, images)
counts = [
    len(loaded.images),
    sum(len(image.captions) for image in loaded.images),
    sum(len(image.boxes) for image in loaded.images),
]
"""
_AUDIT = """
import json, resource, sys, time
from pathlib import Path
from vistune.data.audit.run import _load
captions, instances, images = map(Path, sys.argv[1:])
start = time.perf_counter()
loaded, _ = _load(instances, captions)
counts = []
"""
_TELL = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - start, peak, counts, len(loaded.problems)]))
"""
_GENERATE = """
import json, resource, sys, time
from pathlib import Path
from vistune.data.generation.command import run_generate
from vistune.data.generation.options import GenerateOptions
captions, instances, images, out = map(Path, sys.argv[1:])
start = time.perf_counter()
list(run_generate(GenerateOptions(captions=captions, instances=instances, images=images, out=out)))
provenance = json.loads((out / "provenance.json").read_text())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.perf_counter() - start, peak, sum(provenance["counts"].values()), 0]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="File to write the figures to.")
    parser.add_argument("--scale", type=float, default=1.0, help="Share of train2017's size.")
    parser.add_argument("--generate", action="store_true", help="Run the whole command, too.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vistune-coco-") as name:
        figures = measure(Path(name), given.scale, given.generate)
    given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def measure(folder: Path, scale: float, generate: bool) -> dict[str, Any]:
    images, captions, instances = (max(1, round(count * scale)) for count in (IMAGES, CAPTIONS, INSTANCES))
    rng = random.Random(0)
    names = write_pictures(folder / "train2017", images, rng)
    files = folder / "captions_train2017.json", folder / "instances_train2017.json"
    write_captions(files[0], names, captions, rng)
    write_instances(files[1], names, instances, rng)
    arguments = [*map(str, files), str(folder / "train2017")]
    seconds, peak, counts, problems = run(_LOAD + _TELL, arguments)
    if counts != [images, captions, instances] or problems:
        sys.exit(f"loaded {counts} with {problems} problems of {[images, captions, instances]}")
    figures = {
        "images": images,
        "captions": captions,
        "instances": instances,
        "files_mb": [round(path.stat().st_size / 1e6, 1) for path in files],
        "load_seconds": round(seconds, 1),
        "load_peak_mb": round(peak, 1),
    }
    seconds, peak, _, _ = run(_AUDIT + _TELL, arguments)
    figures |= {"audit_seconds": round(seconds, 1), "audit_peak_mb": round(peak, 1)}
    if generate:
        seconds, peak, samples, _ = run(_GENERATE, [*arguments, str(folder / "out")])
        figures |= {"generate_seconds": round(seconds, 1), "generate_peak_mb": round(peak, 1)}
        figures |= {"samples": samples}
    return {**figures, "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]}


def run(code: str, arguments: list[str]) -> tuple[float, float, Any, int]:
    """What a process of its own told in its last line."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, check=True)
    seconds, peak, counts, problems = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, counts, problems


def write_captions(path: Path, names: list[str], count: int, rng: random.Random) -> None:
    rows = (
        {"image_id": n % len(names) + 1, "id": n, "caption": " ".join(rng.choices(WORDS, k=10))}
        for n in range(count)
    )
    write_lists(path, {"images": map(image, range(len(names)), names), "annotations": rows})


def write_instances(path: Path, names: list[str], count: int, rng: random.Random) -> None:
    outlines = [
        [round(rng.uniform(0, 600), 2) for _ in range(2 * rng.randint(POINTS - 12, POINTS + 12))]
        for _ in range(OUTLINES)
    ]
    rows = (
        {
            "segmentation": [outlines[n % OUTLINES]],
            "area": round(rng.uniform(50, 90_000), 4),
            "iscrowd": 0,
            "image_id": n % len(names) + 1,
            "bbox": [round(rng.uniform(0, 300), 2) for _ in range(2)]
            + [round(rng.uniform(5, 170), 2) for _ in range(2)],
            "category_id": n % CATEGORIES + 1,
            "id": n,
        }
        for n in range(count)
    )
    categories = (
        {"supercategory": "thing", "id": n + 1, "name": f"thing {n + 1}"} for n in range(CATEGORIES)
    )
    images = map(image, range(len(names)), names)
    write_lists(path, {"images": images, "annotations": rows, "categories": categories})


def image(number: int, name: str) -> dict[str, Any]:
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": SIZE[1],
        "width": SIZE[0],
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{number:010d}_{number:010x}_z.jpg",
        "id": number + 1,
    }


def write_lists(path: Path, lists: dict[str, Iterable[dict[str, Any]]]) -> None:
    """As COCO's files are: an object of lists, all in one line."""
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"info": {"year": 2017}')
        for name, rows in lists.items():
            file.write(f', "{name}": [')
            for number, row in enumerate(rows):
                file.write((", " if number else "") + json.dumps(row))
            file.write("]")
        file.write("}")


if __name__ == "__main__":
    main()
