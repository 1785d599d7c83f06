"""Time and memory of `vistune check` on a file shaped like LLaVA-Instruct-158K.

The records are synthetic: types and turns are shared out as in the paper's data (58K conversations of about
four turns, 23K descriptions, 77K reasonings; 1.94 records a picture), and the whole file has about 230 MB.
All the pictures' names lead to a few hundred real files by hard links, so that every name is looked at, as in
a real folder.

    python benchmarks/check.py --json result.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

RECORDS, PICTURES = 157_712, 81_479
SHARES = {"conversation": 58, "detail": 23, "reasoning": 77}
DIFFERENT_PICTURES, SIZE = 200, (640, 480)
WORDS = """the a dog man woman table on near with two red street people holding sitting bus train while
image shows left right of and is are in front background large small which could suggest playing game
bench kitchen plate food umbrella horse field standing together enjoying their because it likely creating
scene""".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="File to write the result to.")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--options", default="", help="More options of `vistune check`, in one string.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vistune-check-") as name:
        result = measure(Path(name), arguments.records, arguments.seed, arguments.options.split())
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def measure(folder: Path, records: int, seed: int, options: list[str]) -> dict[str, Any]:
    rng = random.Random(seed)
    pictures = max(1, round(records * PICTURES / RECORDS))
    names = write_pictures(folder / "images", pictures, rng)
    data = folder / "instruct.json"
    write_data(data, records, names, rng)
    command = [str(Path(sys.executable).with_name("vistune")), "check", str(data)]
    command += ["--images", str(folder / "images"), "--json", str(folder / "found.json"), *options]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1):
        sys.exit(f"vistune check failed:\n{done.stderr[-3000:]}")
    report = json.loads((folder / "found.json").read_text(encoding="utf-8"))["report"]
    if report["records"] != records or report["errors"]:
        sys.exit(f"the check misjudged its data: {done.stdout[-3000:]}")
    return {
        "records": records,
        "pictures": report["pictures"],
        "file_mb": round(data.stat().st_size / 1e6, 1),
        "seconds": round(seconds, 2),
        # the largest process; workers that look at pictures are processes of their own
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "options": options,
        "warnings": report["warnings"],
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
    }


def write_pictures(folder: Path, count: int, rng: random.Random) -> list[str]:
    """JPEG files of the size and weight of COCO's photographs, under ``count`` names."""
    folder.mkdir()
    names = [f"{number:012d}.jpg" for number in range(count)]
    originals = [folder / name for name in names[:DIFFERENT_PICTURES]]
    for path in originals:
        coarse = Image.frombytes("RGB", (80, 60), rng.randbytes(80 * 60 * 3))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=95)
    for number, name in enumerate(names[DIFFERENT_PICTURES:]):
        os.link(originals[number % len(originals)], folder / name)
    return names


def write_data(path: Path, records: int, names: list[str], rng: random.Random) -> None:
    """Written as the original is: indented, one field a line."""
    with open(path, "w", encoding="utf-8") as file:
        separator = "[\n"
        for record in make_records(records, names, rng):
            file.write(separator + json.dumps(record, indent=2))
            separator = ",\n"
        file.write("\n]\n")


def make_records(records: int, names: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
    kinds = rng.choices(list(SHARES), weights=list(SHARES.values()), k=records)
    for number, kind in enumerate(kinds):
        name = names[number % len(names)]
        # words of each answer; they make the file about as large as the original
        turns, words = 1, 130 if kind == "detail" else 180
        if kind == "conversation":
            turns, words = rng.randint(3, 5), 42
        said = []
        for turn in range(turns):
            question = "<image>\n" * (turn == 0) + sentence(rng, 11) + "?"
            said += [
                {"from": "human", "value": question},
                {"from": "gpt", "value": sentence(rng, words) + "."},
            ]
        yield {"id": f"{name.removesuffix('.jpg')}-{kind}-{number}", "image": name, "conversations": said}


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=max(3, round(rng.gauss(words, words / 4)))))


if __name__ == "__main__":
    main()
