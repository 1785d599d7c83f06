"""The LLM client against a stub over HTTP: how near to the ideal it comes, and what faults cost.

    python benchmarks/teacher.py --json teacher.json

``throughput_share_of_ideal``: 64 requests in flight, 200 ms latency, so 320 requests/s at best.
``lost``, ``paid_twice``, ``faulty_equals_clean``: 10% 429 with Retry-After, 5% 500, 2% hang, 2% truncated
JSON, 2% refusals, 1% dropped connections, against the same run without faults.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from vistune.data.generation.generate import Generated, generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.teachers.prompted import DEFAULT_PARAMETERS, PromptedTeacher
from vistune.data.teachers.teacher import SAMPLE_TYPES
from vistune.llm.budget import Budget
from vistune.llm.client import Endpoint, LlmClient
from vistune.llm.ledger import Ledger

try:
    from benchmarks.stub_llm import Faults, counts, served
except ModuleNotFoundError:  # run by its path
    from stub_llm import Faults, counts, served

IN_FLIGHT, LATENCY = 64, 0.2
FAULTS = Faults(too_many=0.10, server_error=0.05, hang=0.02, truncated=0.02, refusal=0.02, dropped=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="for the throughput; three requests each")
    parser.add_argument("--faulty-images", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {**throughput(options.images, Path(folder)), **faults(options.faulty_images, Path(folder))}
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def throughput(images: int, folder: Path) -> dict[str, Any]:
    with served(LATENCY) as url:
        start = time.perf_counter()
        run(url, images, folder / "fast")
        seconds = time.perf_counter() - start
        made = counts(url)["replies"]
    ideal = IN_FLIGHT / LATENCY
    return {
        "requests": made,
        "seconds": round(seconds, 2),
        "requests_per_second": round(made / seconds, 1),
        "throughput_share_of_ideal": round(made / seconds / ideal, 4),
    }


def faults(images: int, folder: Path) -> dict[str, Any]:
    with served() as url:
        run(url, images, folder / "clean")
    with served(0.02, FAULTS) as url:
        result = run(url, images, folder / "faulty")
        given = counts(url)
    done = sum(count for name, count in result.counts.items() if name in SAMPLE_TYPES)
    names = [f"{name}.json" for name in (*SAMPLE_TYPES, "alignment")]
    same = all(
        (folder / "clean" / name).read_bytes() == (folder / "faulty" / name).read_bytes() for name in names
    )
    return {
        "samples": 3 * images,
        "lost": 3 * images - done - sum(result.quarantined.values()),
        "quarantined": sum(result.quarantined.values()),
        "http_requests": given["requests"],
        "paid_twice": given["paid_twice"],
        "faulty_equals_clean": same,
    }


def run(url: str, images: int, out: Path) -> Generated:
    """Generate all three types for ``images`` synthetic images, with a ledger of its own."""
    with Ledger(out.with_suffix(".sqlite")) as ledger:
        endpoint = Endpoint(url, IN_FLIGHT, timeout=2.0)
        client = LlmClient(endpoint, ledger, Budget(None, None))
        teacher = PromptedTeacher(client, "stub", DEFAULT_PARAMETERS, IN_FLIGHT + IN_FLIGHT // 4)
        return generate(annotations(images), teacher, out, GenerationSettings())


def annotations(images: int) -> Annotations:
    made = [
        AnnotatedImage(
            str(number),
            (f"{number}.jpg",),
            tuple(f"Caption {which} of picture {number}: a dog and a ball." for which in range(5)),
            (Box("dog", (0.1, 0.2, 0.5, 0.6)), Box("sports ball", (0.7, 0.7, 0.8, 0.8))),
        )
        for number in range(images)
    ]
    return Annotations(made, ("dog", "sports ball"), [])


if __name__ == "__main__":
    main()
