"""Serving: the prefix cache, many clients at once, beside ``transformers serve``, and a load with faults.

    python benchmarks/serve.py --json FILE [--only ttft,throughput,transformers,load] [--minutes 5]

Two models, in float32 on the CPU: the starter, with its own answers, and a random LLaVA of 60 million
parameters at 576 patches a picture, made to write ``--tokens`` tokens for every question. Pictures are scenes
of the sample world. Servers are started as users start them, one at a time, and asked over HTTP, greedily.

- ttft: two engines in one process, one of them without a prefix cache. Each round has a new picture: a
  first turn, then the second, timed from the request to the first words, making picture and prompt ready
  included. A ratio is of the medians.
- throughput: ``--clients`` clients, each with a picture of its own in every round, and ``--questions``
  requests about it, each a conversation by itself, asked one after another: a short question, a description
  and a reason, as in LLaVA's data. Against it: the same requests one by one through
  ``LlavaForConditionalGeneration.generate`` in this process (sdpa attention, its cache, ``inference_mode``,
  no HTTP, a picture preprocessed once for its questions). Then our server is asked everything again, one
  request at a time. A speed is the median over rounds.
- transformers: the same clients, two turns each, whole answers, at our server and at ``transformers serve``,
  both started anew in every round. The latter's ``--continuous-batching`` is not given: models that see
  pictures do not support it (5.23 says so, and answers one by one).
- load: ``--minutes`` of ``--crowd`` clients at our server; one request in ten is left midway, one in ten is
  rubbish. Memory is the server's resident set: the median after a fifth of the time against that of the end,
  with a prefix cache that is full by then.

Keys, each of the worse model:

- ``second_turn_ttft_ratio``: with the cache / without;
- ``throughput_vs_sequential``: tokens/s at once / one by one;
- ``vs_transformers_serve``: answers/s, ours / theirs;
- ``good_request_errors``: failed requests of those that should not fail;
- ``memory_growth``: the share by which the server grew;
- ``same_answers``: whether answers with the cache were those without it, and answers at once those alone;
- ``cancelled_freed``: whether every request that was left midway was cancelled (of the starter, whose answers
  are short: or ended by itself before the server knew), and nothing ran or waited at last;
- ``models``: of each model, all figures of the parts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from vistune.data.images import open_image
from vistune.data.world.write import write_world
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.question import Question

try:
    from benchmarks import answer
    from benchmarks.models import random_llava
    from benchmarks.serving import beside, load, throughput, ttft
    from benchmarks.serving.throughput import Asked
    from benchmarks.serving.trial import Trial
except ModuleNotFoundError:  # run by its path
    import answer
    from models import random_llava
    from serving import beside, load, throughput, ttft
    from serving.throughput import Asked
    from serving.trial import Trial

PARTS = ("ttft", "throughput", "transformers", "load")
STARTER_TOKENS, PICTURES = 64, 400
LONGER = "Describe the picture in detail.", "Why might someone draw this picture?"
QUICK = {
    "models": ["random"],
    "rounds": 1,
    "clients": 2,
    "crowd": 4,
    "questions": 2,
    "tokens": 8,
    "minutes": 0.1,
    "layers": 2,
    "side": 56,
    "pictures": 8,
}
WORST: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "second_turn_ttft_ratio": ("ttft", "ratio", max),
    "throughput_vs_sequential": ("throughput", "ratio", min),
    "vs_transformers_serve": ("transformers", "ratio", min),
    "good_request_errors": ("load", "good_request_errors", max),
    "memory_growth": ("load", "memory_growth", max),
    "cancelled_freed": ("load", "cancelled_freed", min),
}


def measure(trial: Trial, part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if part == "ttft":
        return ttft.measure(trial, 5 * arguments.rounds)
    if part == "throughput":
        rounds = make_rounds(trial, arguments)
        return throughput.measure(trial, rounds, by_generate(trial))
    if part == "transformers":
        return beside.measure(trial, arguments.clients, arguments.rounds)
    questions = [question.text for question in answer.make_questions([trial.name], 10)]
    return load.measure(trial, [*questions, *LONGER], arguments.crowd, arguments.minutes)


def make_rounds(trial: Trial, arguments: argparse.Namespace) -> list[list[list[Asked]]]:
    """[round][client][question]; the first to warm up."""
    pictures = trial.pictures[: arguments.clients * (arguments.rounds + 1)]
    short = answer.make_questions([picture.name for picture in pictures], 1)
    users = [
        [Asked(picture, text) for text in islice(cycle((question.text, *LONGER)), arguments.questions)]
        for picture, question in zip(pictures, short, strict=True)
    ]
    return [users[start : start + arguments.clients] for start in range(0, len(users), arguments.clients)]


def by_generate(trial: Trial) -> throughput.Generate:
    """One request after another through transformers."""
    theirs: answer.Theirs | None = None

    def generate(requests: Sequence[Asked]) -> list[list[int]]:
        nonlocal theirs
        questions = [Question(f"{number}", one.text, one.picture.name) for number, one in enumerate(requests)]
        pictures = answer.Memory({one.picture.name: open_image(one.picture) for one in requests})
        asked = answer.Trial(trial.name, trial.checkpoint, questions, pictures, trial.most, trial.fixed)
        theirs = theirs.asked(asked) if theirs else answer.Theirs(asked)
        return theirs.single()

    return generate


def make_trial(name: str, folder: Path, pictures: Sequence[Path], arguments: argparse.Namespace) -> Trial:
    fixed = name == "random"
    checkpoint = random_llava(arguments.layers, arguments.side) if fixed else load_checkpoint(name)
    most = arguments.tokens if fixed else STARTER_TOKENS
    save_checkpoint(checkpoint, folder / name)
    return Trial(name, folder / name, checkpoint, pictures, most, fixed)


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(prefix="vistune-serve-") as name:
        folder = Path(name)
        count = max(arguments.pictures, arguments.clients * (arguments.rounds + 1))
        write_world(folder / "world", count, 0, seed=6, workers=1)
        pictures = sorted((folder / "world" / "images").iterdir())
        models: dict[str, dict[str, Any]] = {}
        for model in arguments.models:
            trial = make_trial(model, folder, pictures, arguments)
            models[model] = {
                "parameters": sum(p.numel() for p in trial.checkpoint.model.parameters()),
                "patches": trial.checkpoint.model.vision.patches,
                "most": trial.most,
                **{part: measure(trial, part, arguments) for part in arguments.only},
            }
    text = json.dumps(summary(models, arguments), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def summary(models: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: worse(model[part][figure] for model in models.values())
        for key, (part, figure, worse) in WORST.items()
        if part in arguments.only
    }
    same = [
        model[part][figure] == 1
        for model in models.values()
        for part, figure in (("ttft", "same_answers"), ("throughput", "same_as_alone"))
        if part in model
    ]
    if same:
        found["same_answers"] = all(same)
    settings = {name: getattr(arguments, name) for name in ("clients", "rounds", "quick")}
    return {**found, **settings, "threads": torch.get_num_threads(), "models": models}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--only", type=listed(PARTS), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--models", type=listed(("starter", "random")), default=["starter", "random"], help="starter, random"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--questions", type=int, default=3, help="of a client about a picture")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer of the random model")
    parser.add_argument("--minutes", type=float, default=5.0, help="of load, on each model")
    parser.add_argument("--crowd", type=int, default=32, help="clients of the load")
    parser.add_argument(
        "--quick", action="store_true", help="seconds, on a tiny random model: do all parts work?"
    )
    parser.set_defaults(layers=12, side=336, pictures=PICTURES)
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def listed(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
        return names

    return read


if __name__ == "__main__":
    main()
