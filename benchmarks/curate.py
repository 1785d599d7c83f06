"""What curation costs: speed against a plain spaCy loop, and memory on millions of captions.

    python benchmarks/curate.py --json FILE [--captions N] [--files FILE...]
    python benchmarks/curate.py --json FILE --synthetic 3300000

The first form finds the noun phrases of the same captions twice in one run, side by side: with the loop
that comes to mind, ``for caption in captions: nlp(caption)`` over the whole pipeline, and with vistune's
local engine. Both times include starting up and loading the model. Keys: ``captions``, ``plain_seconds``,
``seconds``, ``speedup_vs_plain_loop``, ``captions_per_second``, ``same_phrases`` (captions for which both
found the same), ``workers``, ``model``.

The second form writes N captions made of a few hundred words and a tail of invented names, curates them,
and tells the peak resident memory: ``peak_main_mib`` of the process that counts and selects,
``peak_worker_mib`` of the largest of the ``workers``, ``peak_total_mib``, the most that all of them can have
had together; also ``captions``, ``unique_phrases``, ``phrases_kept``, ``kept``, ``seconds``,
``captions_per_second``, ``workers``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from vistune.data.curate import Settings, curate
from vistune.data.curate.local import extract_locally
from vistune.data.curate.phrases import Normalisation, find_parser
from vistune.data.curate.source import Source, in_blocks
from vistune.processes import all_cores
from vistune.progress import say, track

CC3M = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "cc3m" / "Validation_GCC-1.1.0-Validation.tsv"
)
NOUNS = (
    "actor artist bag ball beach bear bed bike bird boat bottle bowl box bridge building bus cake car "
    "cat chair child church city cloud coat cow cup desk dog door dress farm fence field fish flower "
    "football forest fruit garden girl glass guitar hand hat hill home horse house kitchen lake lamp "
    "leaf lion man map market mirror moon mountain ocean painting park path person phone player pond "
    "portrait rain river road rock room shirt shoe sky snow sofa stage statue street sun sunset table "
    "team tower town train tree truck umbrella vase village wall water window woman wood zebra"
).split()
ADJECTIVES = (
    "big black blue bright brown busy colourful dark empty famous fresh golden green grey happy heavy "
    "large little modern narrow new old orange pink pretty purple quiet red round small snowy sunny "
    "tall tiny warm wet white wild wooden yellow young"
).split()
VERBS = "near under behind beside holds watches follows crosses paints carries over on".split()
SYLLABLES = "ba do fi ga ku lo mi ne po ra su te vo wi za".split()
NAME_EVERY = 8  # one caption in so many names something invented


def synthetic_captions(count: int, seed: int = 0) -> Iterator[str]:
    """Captions such as `the old boat near a red lamp`; frequencies fall as 1 / rank."""
    rng = random.Random(f"benchmark/{seed}")
    zipf = list(accumulate(1 / rank for rank in range(1, len(NOUNS) + 1)))

    def phrase() -> str:
        adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.6 else ""
        return f"{rng.choice(('a', 'the'))} {adjective}{rng.choices(NOUNS, cum_weights=zipf)[0]}"

    for _ in range(count):
        name = " by " + "".join(rng.choices(SYLLABLES, k=3)).title() if rng.randrange(NAME_EVERY) == 0 else ""
        yield f"{phrase()} {rng.choice(VERBS)} {phrase()}{name}"


def measure_memory(captions: int, workers: int) -> dict[str, Any]:
    """Curate a synthetic file in a folder that is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.tsv"
        with open(path, "w", encoding="utf-8") as file:
            for number, caption in enumerate(synthetic_captions(captions)):
                file.write(f"{caption}\t{number:08d}.jpg\n")
        result = curate([path], Path(folder) / "out", Settings(workers=workers))
    main, worker = (peak_mib(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        **result.summary(),
        "captions_per_second": round(result.captions / result.seconds, 1),
        "workers": workers,
        "peak_main_mib": main,
        "peak_worker_mib": worker,
        "peak_total_mib": round(main + workers * worker, 1),
    }


def peak_mib(who: int) -> float:
    """The largest resident memory of this process, or of its largest ended child."""
    size = resource.getrusage(who).ru_maxrss
    return round(size / (2**20 if sys.platform == "darwin" else 2**10), 1)


def measure_speed(files: list[Path], limit: int | None, workers: int) -> dict[str, Any]:
    """The plain loop and the local engine over the same captions."""
    captions = [pair.caption for pair in islice(Source(files, longest=2_000).pairs(), limit)]
    parser = find_parser(None, Normalisation())
    say("vistune's local engine ...")
    start = time.perf_counter()
    ours = []
    for block in extract_locally(in_blocks(captions), parser, workers):
        numbers = iter(block.numbers)
        ours += [{block.phrases[n] for n in islice(numbers, length)} for length in block.lengths]
    seconds = time.perf_counter() - start

    start = time.perf_counter()
    import spacy

    nlp = spacy.load(parser.model)
    plain = []
    for caption in track(captions, "plain loop", len(captions)):
        plain.append([chunk.text for chunk in nlp(caption).noun_chunks])
    plain_seconds = time.perf_counter() - start

    even = [{" ".join(phrase.lower().split()) for phrase in phrases} for phrases in plain]
    return {
        "captions": len(captions),
        "plain_seconds": round(plain_seconds, 2),
        "seconds": round(seconds, 2),
        "speedup_vs_plain_loop": round(plain_seconds / seconds, 2),
        "captions_per_second": round(len(captions) / seconds, 1),
        "same_phrases": sum(a == b for a, b in zip(ours, even, strict=True)),
        "workers": workers,
        "model": f"{parser.model} {parser.version}",
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--json", type=Path, help="file to write the figures to")
    arguments.add_argument("--captions", type=int, help="use the first so many (default: all)")
    arguments.add_argument("--files", type=Path, nargs="+", default=[CC3M], help="caption files")
    arguments.add_argument("--synthetic", type=int, help="curate so many invented captions instead")
    arguments.add_argument("--workers", type=int, default=all_cores())
    given = arguments.parse_args()
    if given.synthetic:
        figures = measure_memory(given.synthetic, given.workers)
    else:
        figures = measure_speed(given.files, given.captions, given.workers)
    text = json.dumps(figures, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
