"""Training steps, side by side: vistune's packed trees against transformers' Trainer and TRL's SFTTrainer.

    python benchmarks/train_step.py --json FILE [--samples 64] [--rounds 2] [--patches 576]
    make peers    # once: TRL's virtual environment, .venvs/trl

Same weights (a random LLaVA of some 18 million parameters), same samples, fp32, batches of 8.
Each variant runs in a process of its own, in turn, ``--rounds`` times; a ratio is that of the medians over
rounds of samples/s. Keys:

- ``speedup_vs_padded``: against ``Trainer`` with samples in random order, each batch padded to its longest;
- ``speedup_vs_length_grouped``: against the same with batches of like lengths;
- ``speedup_vs_trl``: against TRL's ``SFTTrainer``, which pads batches, too (``benchmarks/peers/sft.py`` lists
  its settings); ``trl``: the versions it ran with; ``trl_loss_relative_error``: |ours - theirs| / ours, of
  the loss of one batch of 8; above 1e-4 the benchmark stops. Without TRL's environment, all three are null;
- ``stage1_speedup``: stage 1, one caption a picture, the connector alone trained, against ``Trainer`` on the
  same frozen model, length-grouped or padded, whichever is faster;
- ``bound_vs_padded``: the operations of the padded steps over those of ours, both counted as they are
  dispatched (matrix products and attention, forward and backward): what the saved work alone allows;
  ``bound_vs_length_grouped`` and ``stage1_bound`` say the same of the other two; ``bound_reached`` is the
  speedup over the bound;
- ``speedup_vs_other_kernel``: against ours by the other library of matrix products; ``linear_kernel`` is the
  one that was chosen on this ``cpu`` (``src/vistune/model/cpu_linear.py``);
- ``memory_ratio``: peak resident memory beyond what the process held before its first step, against padded;
- ``gradient_relative_error``: |ours - theirs| / |theirs| over all trained weights, of one batch of 8.

Data, shaped like LLaVA-Instruct-158K: 1.94 dialogues a picture; types in the shares 58 : 23 : 77; after a
system prompt of 35 tokens and the picture's patches, a conversation has 3 to 5 questions of about 12 tokens
with answers of about 50, a description one answer of about 130, a reasoning one of about 200 (normal, a
quarter as spread). Stage 1: a question of 10 tokens, a caption of about 15.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import Batch
from vistune.data.mix import Mix
from vistune.data.pack import shared_length
from vistune.data.preprocess import Preprocessor
from vistune.errors import Problem
from vistune.model.checkpoint import Checkpoint, load_checkpoint
from vistune.model.cpu_linear import Library
from vistune.model.hf import llava_state, to_llava
from vistune.model.llava import Llava
from vistune.recipe import ModelRecipe, StageRecipe
from vistune.template import Encoded
from vistune.train.loader import Loader
from vistune.train.optimizers import make_optimizer
from vistune.train.order import Order
from vistune.train.parallel import Team
from vistune.train.record import processor
from vistune.train.stage import optimizer_step

try:
    from benchmarks.models import CLIP_MEAN, CLIP_STD, VOCABULARY, random_model
    from benchmarks.peers.given import BATCH, padded, set_trained, settings
    from benchmarks.peers.timed import timed
    from benchmarks.peers.trl import PYTHON, Trl, as_row, missing, write_task
except ModuleNotFoundError:  # run by its path
    from models import CLIP_MEAN, CLIP_STD, VOCABULARY, random_model
    from peers.given import BATCH, padded, set_trained, settings
    from peers.timed import timed
    from peers.trl import PYTHON, Trl, as_row, missing, write_task

IMAGE = 2  # as in the tokenizer of ``starter``, which TRL's checkpoint folder gets
LOSS_TOLERANCE = 1e-4
ALONE = Team(0, 1, torch.device("cpu"), distributed=False)
MODEL = ModelRecipe(vision="random", llm="random", template="short")
PARTS = {"instruct": ("connector", "llm"), "align": ("connector",)}
SHARES = {"conversation": 58, "detail": 23, "reasoning": 77}
DIALOGUES_A_PICTURE = 1.94


def make_model(patches: int) -> Llava:
    """4 layers of width 384 (13M parameters) behind a CLIP of 6 layers of width 256 (5M)."""
    vision = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "image_size": 14 * round(patches**0.5),
        "patch_size": 14,
    }
    llm = {
        "vocab_size": VOCABULARY,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": 4096,
    }
    return random_model("linear", IMAGE, vision, llm)


def make_samples(stage: str, count: int, patches: int, question_first: float) -> list[Encoded]:
    rng = random.Random(f"samples/{stage}")

    def words(mean: float) -> list[int]:
        return [rng.randrange(10, VOCABULARY) for _ in range(max(3, round(rng.gauss(mean, mean / 4))))]

    system = words(35)
    pictures = count if stage == "align" else round(count / DIALOGUES_A_PICTURE)
    samples = []
    for number in range(count):
        before = words(12) if rng.random() < question_first else []
        ids = [*system, *before, *[IMAGE] * patches]
        labels = [IGNORE_INDEX] * len(ids)
        kind = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        turns, length = (1, 130) if kind == "detail" else (1, 200)
        if kind == "conversation":
            turns, length = rng.randint(3, 5), 50
        for _ in range(1 if stage == "align" else turns):
            question, answer = (
                words(10 if stage == "align" else 12),
                words(15 if stage == "align" else length),
            )
            ids += question + answer
            labels += [IGNORE_INDEX] * len(question) + answer
        samples.append(Encoded(ids, labels, [f"{number % pictures}"]))
    return samples


def pixels_of(name: str, size: int) -> Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(int(name)))


class Memory:
    """Samples as a training stage reads them (see ``vistune.data.corpus.Corpus``), in memory."""

    def __init__(self, samples: Sequence[Encoded]) -> None:
        self._samples = samples
        self.lengths = np.array([len(s.ids) for s in samples])
        self.supervised = np.array([s.supervised for s in samples])
        self.prefixes = np.array([shared_length(np.array(s.ids), np.array(s.labels), IMAGE) for s in samples])
        starts = [
            (tuple(s.ids[:prefix]), s.pictures[0]) for s, prefix in zip(samples, self.prefixes, strict=True)
        ]
        numbers = {start: number for number, start in enumerate(dict.fromkeys(starts))}
        self.groups = np.array([numbers[start] for start in starts])
        self.selection = Mix([np.arange(len(samples))], [1])

    def __getitem__(self, number: int) -> Encoded:
        return self._samples[number]

    def __len__(self) -> int:
        return len(self._samples)

    def pictures(self) -> list[str]:
        return sorted({name for sample in self._samples for name in sample.pictures})


class Noise:
    """Pictures of noise."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.broken: dict[str, Problem] = {}

    def load(self, names: Sequence[str]) -> Tensor:
        return torch.stack([pixels_of(name, self._size) for name in names])


def run_ours(
    stage: str, samples: list[Encoded], patches: int, row_tokens: int, library: Library | None
) -> tuple[Callable[[], None], Library]:
    """What takes the steps, and the library that multiplies: ``library``, or the one that is chosen."""
    model = make_model(patches).train()
    if library:
        model.cpu_kernel.library = library
    library = model.cpu_kernel.choose(row_tokens, gradients=True)
    recipe = StageRecipe(trains=PARTS[stage], data={"x": 1}, learning_rate=1e-4, batch_size=BATCH)  # type: ignore[dict-item]
    model.set_trained(set(recipe.trains))
    optimizer, corpus = make_optimizer(model, recipe), Memory(samples)
    order = Order(corpus.selection, corpus.groups, BATCH, 0, share=True)
    pictures = Noise(model.vision.image_size)
    loader = Loader(corpus, order, pictures, ALONE, IMAGE, row_tokens, True)  # type: ignore[arg-type]

    def work() -> None:
        for prepared in loader.steps(0, order.steps_per_epoch):
            optimizer_step(model, optimizer, prepared.batches, 1.0, 1.0, ALONE)

    return work, library


def run_theirs(
    stage: str, samples: list[Encoded], patches: int, grouped: bool, folder: str
) -> Callable[[], None]:
    from transformers import Trainer, TrainingArguments

    ours = make_model(patches)
    whole, size = as_transformers(ours).train(), ours.vision.image_size
    set_trained(whole, stage)
    del ours
    strategy = "group_by_length" if grouped else "random"
    arguments = TrainingArguments(**settings(folder), train_sampling_strategy=strategy)
    rows = [{**as_row(sample), "length": len(sample.ids)} for sample in samples]
    trainer = Trainer(
        whole,
        arguments,
        data_collator=lambda rows: padded(rows, lambda name: pixels_of(name, size)),  # type: ignore[arg-type]
        train_dataset=rows,  # type: ignore[arg-type]
    )
    return lambda: trainer.train() and None


def as_transformers(model: Llava) -> Any:
    """The same weights as ``LlavaForConditionalGeneration``, through files."""
    from transformers import LlavaForConditionalGeneration

    with tempfile.TemporaryDirectory() as folder:
        to_llava(model, MODEL, llava_state(model), None).save_pretrained(folder)
        return LlavaForConditionalGeneration.from_pretrained(folder)


def prepare_trl(
    python: Path, folder: Path, arguments: argparse.Namespace
) -> tuple[Trl | None, dict[str, Any]]:
    """Return TRL as a peer of stage ``instruct``, and its figures but the speed; None if it is not installed.

    Exits if TRL's first loss is not ours.
    """
    if (reason := missing(python)) is not None:
        print(reason, file=sys.stderr)
        return None, {"trl": None, "trl_loss_relative_error": None}
    samples = make_samples("instruct", arguments.samples, arguments.patches, arguments.question_first)
    model = make_model(arguments.patches)
    size = model.vision.image_size
    checkpoint = Checkpoint(
        model, load_checkpoint("starter").tokenizer, Preprocessor(size, CLIP_MEAN, CLIP_STD), MODEL
    )
    write_task(folder, checkpoint, samples, lambda name: pixels_of(name, size))
    peer = Trl(python, folder)
    theirs = peer.run(BATCH)
    error = loss_error(first_loss(model, samples[:BATCH], arguments.row_tokens), theirs["loss"])
    return peer, {"trl": theirs["versions"], "trl_loss_relative_error": error}


def loss_error(ours: float, theirs: float) -> float:
    """Return the relative difference of two losses; exit if it is above ``LOSS_TOLERANCE``, or no number."""
    error = abs(ours - theirs) / ours
    if not error <= LOSS_TOLERANCE:
        sys.exit(f"trl: its first loss is {theirs}, ours {ours}: it does not compute the same.")
    return error


def first_loss(model: Llava, samples: list[Encoded], row_tokens: int) -> float:
    """Return the mean loss over the supervised tokens of ``samples``, one step's."""
    with torch.no_grad():
        total = sum(float(model(batch)) for batch in one_step(model, samples, row_tokens))
    return total / sum(sample.supervised for sample in samples)


def one_step(model: Llava, samples: list[Encoded], row_tokens: int) -> list[Batch]:
    """Return what our step computes for ``samples``, which fill one batch or less."""
    corpus = Memory(samples)
    order = Order(corpus.selection, corpus.groups, len(samples), 0, share=True)
    pictures = Noise(model.vision.image_size)
    loader = Loader(corpus, order, pictures, ALONE, IMAGE, row_tokens, True)  # type: ignore[arg-type]
    return loader.prepare(0)


def measure(variant: str, stage: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Samples/s and memory of one variant, in this process; or, where it is asked for, its operations."""
    count, patches, row_tokens = arguments.samples, arguments.patches, arguments.row_tokens
    samples = make_samples(stage, count, patches, arguments.question_first)
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if variant == "ours":
            # The counter knows PyTorch's own products only; their number is the same by either library.
            library = "mkl" if arguments.count else arguments.library
            work, told["linear_kernel"] = run_ours(stage, samples, patches, row_tokens, library)
        else:
            work = run_theirs(stage, samples, patches, variant == "grouped", folder)
        if arguments.count:
            return {"flops": count_flops(work)}
        return {**timed(work, count), **told}


def count_flops(work: Callable[[], None]) -> int:
    """Operations of ``work``; what a causal kernel leaves out does not count."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(
        query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **_: Any
    ) -> float:
        return sdpa_flop_count(query, key, value) / (2 if causal else 1)

    def backward(
        grad: Any,
        query: Any,
        key: Any,
        value: Any,
        out: Any,
        sums: Any,
        dropout: float,
        causal: bool,
        **_: Any,
    ) -> float:
        return sdpa_backward_flop_count(grad, query, key, value) / (2 if causal else 1)

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    custom = {
        attention: forward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        work()
    return int(counter.get_total_flops())


def gradient_error(patches: int, row_tokens: int) -> float:
    samples = make_samples("instruct", BATCH, patches, 0.25)
    ours = make_model(patches).train()
    whole = as_transformers(ours).train()
    ours.set_trained({"connector", "llm"})
    for batch in one_step(ours, samples, row_tokens):
        (ours(batch) / sum(s.supervised for s in samples)).backward()
    rows, size = [as_row(sample) for sample in samples], ours.vision.image_size
    whole.requires_grad_(True)
    whole(**padded(rows, lambda name: pixels_of(name, size))).loss.backward()
    theirs = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    pairs = [(ours.connector.layers[0].weight, theirs["model.multi_modal_projector.linear_1.weight"])]
    pairs += [
        (
            p,
            theirs[
                f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name
            ],
        )
        for name, p in ours.language_model.named_parameters()
    ]
    difference = sum(float((p.grad - g).square().sum()) for p, g in pairs)
    return (difference / sum(float(g.square().sum()) for _, g in pairs)) ** 0.5


def run_one(variant: str, stage: str, arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, __file__, "--one", variant, "--stage", stage, *more]
    for option in ("samples", "patches", "row_tokens", "question_first"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        sys.exit(told.stderr[-3000:])
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    print(f"{stage} {variant} {' '.join(more)}: {found}", file=sys.stderr)
    return found


def compare(
    stage: str, variants: Sequence[str], arguments: argparse.Namespace, trl: Trl | None = None
) -> dict[str, dict[str, float]]:
    """Return medians over rounds, in which the variants take turns.

    ``other_kernel`` is ours by the library that ours does not choose. ``trl`` is a variant if it is given.
    """
    variants = [*variants, *(["trl"] if trl else [])]
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            if variant == "other_kernel":
                other = "mkl" if found["ours"][-1]["linear_kernel"] == "onednn" else "onednn"
                found[variant].append(run_one("ours", stage, arguments, "--library", other))
            elif variant == "trl" and trl:
                found[variant].append(trl.run())
            else:
                found[variant].append(run_one(variant, stage, arguments))
    return {
        variant: {
            key: statistics.median(row[key] for row in rows) for key in ("samples_per_second", "memory_mib")
        }
        | {key: value for key, value in rows[-1].items() if key == "linear_kernel"}
        for variant, rows in found.items()
    }


def count_work(stage: str, arguments: argparse.Namespace) -> dict[str, int]:
    """Operations of each variant's steps."""
    return {
        variant: run_one(variant, stage, arguments, "--count")["flops"]
        for variant in ("ours", "padded", "grouped")
    }


def ratios(
    times: dict[str, dict[str, dict[str, Any]]], work: dict[str, dict[str, int]]
) -> dict[str, float | None]:
    """The figures that compare variants."""
    speed = {
        stage: {variant: row["samples_per_second"] for variant, row in rows.items()}
        for stage, rows in times.items()
    }
    instruct, align = speed["instruct"], speed["align"]
    faster = max(("padded", "grouped"), key=lambda variant: align[variant])
    bounds = {
        variant: work["instruct"][variant] / work["instruct"]["ours"] for variant in ("padded", "grouped")
    }
    return {
        "speedup_vs_padded": instruct["ours"] / instruct["padded"],
        "speedup_vs_length_grouped": instruct["ours"] / instruct["grouped"],
        "speedup_vs_trl": instruct["ours"] / instruct["trl"] if "trl" in instruct else None,
        "stage1_speedup": align["ours"] / align[faster],
        "bound_vs_padded": bounds["padded"],
        "bound_vs_length_grouped": bounds["grouped"],
        "stage1_bound": work["align"][faster] / work["align"]["ours"],
        "bound_reached": instruct["ours"] / instruct["padded"] / bounds["padded"],
        "speedup_vs_other_kernel": instruct["ours"] / instruct["other_kernel"],
        "memory_ratio": times["instruct"]["ours"]["memory_mib"] / times["instruct"]["padded"]["memory_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--patches", type=int, default=576, help="a square: 576 as CLIP-L at 336 px, 256 at 224"
    )
    parser.add_argument("--row-tokens", type=int, default=2048)
    parser.add_argument(
        "--question-first", type=float, default=0.0, help="share of samples that cannot share their picture"
    )
    parser.add_argument("--trl", type=Path, default=PYTHON, help="Python of a virtual environment with TRL")
    parser.add_argument("--one", choices=["ours", "padded", "grouped"], help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=list(PARTS), default="instruct", help=argparse.SUPPRESS)
    parser.add_argument("--library", choices=["mkl", "onednn"], help=argparse.SUPPRESS)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.stage, arguments)))
        return
    variants = ("ours", "other_kernel", "padded", "grouped")
    with tempfile.TemporaryDirectory() as folder:
        trl, checked = prepare_trl(arguments.trl, Path(folder), arguments)
        instruct = compare("instruct", variants, arguments, trl)
    times = {"instruct": instruct, "align": compare("align", variants, arguments)}
    work = {stage: count_work(stage, arguments) for stage in PARTS}
    figures = {
        **ratios(times, work),
        **checked,
        "gradient_relative_error": gradient_error(arguments.patches, arguments.row_tokens),
        **times,
        "flops": work,
        "cpu": processor(),
        "linear_kernel": times["instruct"]["ours"]["linear_kernel"],
        "samples": arguments.samples,
        "patches": arguments.patches,
        "row_tokens": arguments.row_tokens,
        "question_first": arguments.question_first,
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
