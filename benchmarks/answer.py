"""Questions answered a second, side by side: vistune's shared pictures against transformers' ``generate``.

    python benchmarks/answer.py --json FILE [--questions-per-picture 5] [--pictures N] [--rounds 3]

Two models, in float32 on the CPU: the starter, with its own answers, and a random LLaVA of 60 million
parameters at 576 patches a picture, made to write 24 tokens for every question. Pictures are scenes of the
sample world, in memory and decoded. Three ways, in turn, ``--rounds`` times, after a round to warm up:

- ours: ``vistune evaluate``'s own path, questions on one picture behind one another;
- single: ``LlavaForConditionalGeneration.generate`` on the same weights, a question at a time;
- batched: the same, in batches of 8, padded on the left.

Every clock runs from pictures and questions to the ids of answers. For transformers a picture is preprocessed
once for all its questions, and prompts become ids by vistune's renderer, so that the prompts are the same
everywhere (tests/parity/test_export_adapters.py holds these against transformers' own processor); it has sdpa
attention, its cache, and ``inference_mode``. A ratio is of the medians over rounds. Keys:

- ``speedup_vs_single``, ``speedup_vs_batched``: the smaller of the two models' ratios;
- ``same_tokens``: whether all three ways gave the same ids to every question, of both models;
- ``models``: each model's parameters, patches, seconds of every round, questions/s, and where a first
  difference lies, if there is one.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vistune.conversation import Conversation, ask, human
from vistune.data.images import open_image
from vistune.data.wording import plural, with_article
from vistune.data.world.scene import catalogue
from vistune.data.world.write import write_world
from vistune.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vistune.question import Question

try:
    from benchmarks.models import random_llava
except ModuleNotFoundError:  # run by its path
    from models import random_llava

BATCH, ROWS = 8, 64  # ROWS is the default of `vistune evaluate`
PICTURES = {"starter": 40, "random": 8}
FORMS = (
    "What is in the picture?",
    "How many {things} are there?",
    "Is there {a_thing} in the picture?",
    "Where is the {thing}?",
    "Are there any {things} in the picture, or is there only {a_thing}?",
    "What is the {thing} next to?",
    "What is in the top left?",
)
Answers = list[list[int]]


@dataclass(frozen=True)
class Trial:
    """A model and what it is asked."""

    name: str
    checkpoint: Checkpoint
    questions: Sequence[Question]
    pictures: Memory
    most: int
    fixed: bool  # every answer has ``most`` tokens


class Memory:
    """Decoded pictures by name, as :class:`vistune.data.pictures.Pictures` gives them."""

    def __init__(self, pictures: dict[str, Image.Image]) -> None:
        self._pictures = pictures

    def open(self, name: str) -> Image.Image:
        return self._pictures[name]

    def __iter__(self) -> Any:
        return iter(self._pictures)


def make_questions(names: Sequence[str], each: int) -> list[Question]:
    rng = random.Random("questions")
    things = sorted(catalogue().categories)
    questions = []
    for name in names:
        for number, form in enumerate(rng.sample(FORMS * (1 + each // len(FORMS)), each)):
            thing = rng.choice(things)
            text = form.format(thing=thing, things=plural(thing), a_thing=with_article(thing))
            questions.append(Question(f"{name}-{number}", text, name))
    return questions


def ours(trial: Trial) -> Answers:
    from vistune.evaluate.answering.ours import answer_ids

    found: dict[str, Any] = {
        question.id: ids
        for question, ids in answer_ids(
            trial.checkpoint,
            trial.questions,
            trial.pictures,  # type: ignore[arg-type]
            trial.most,
            ROWS,
        )
    }
    return [found[question.id] for question in trial.questions]


class Theirs:
    """transformers on the same weights, through an export."""

    def __init__(self, trial: Trial) -> None:
        from transformers import LlavaForConditionalGeneration

        self._trial = trial
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(trial.checkpoint, Path(folder) / "saved")
            self._model: Any = LlavaForConditionalGeneration.from_pretrained(
                Path(folder) / "saved", dtype=torch.float32, attn_implementation="sdpa"
            ).eval()

    def asked(self, trial: Trial) -> Theirs:
        """The same weights, asked something else."""
        other = copy.copy(self)
        other._trial = trial
        return other

    def single(self) -> Answers:
        return self._answer(1)

    def batched(self) -> Answers:
        return self._answer(BATCH)

    @torch.inference_mode()
    def _answer(self, batch: int) -> Answers:
        trial, pixels, answers = self._trial, {}, []
        for start in range(0, len(trial.questions), batch):
            group = trial.questions[start : start + batch]
            for question in group:
                if question.image not in pixels:
                    picture = trial.pictures.open(question.image or "")
                    pixels[question.image] = torch.from_numpy(trial.checkpoint.preprocess(picture))
            ids, mask = self._padded([self._prompt(question) for question in group])
            written = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=torch.stack([pixels[question.image] for question in group]),
                max_new_tokens=trial.most,
                do_sample=False,
                use_cache=True,
            )
            answers += [self._cut(row) for row in written[:, ids.shape[1] :].tolist()]
        return answers

    def _prompt(self, question: Question) -> list[int]:
        talk = Conversation(question.id, (human(*ask(question.text, question.image)),))
        return self._trial.checkpoint.renderer.encode_prompt(talk).ids

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, prompts))
        pad = self._trial.checkpoint.tokenizer.pad_token_id
        ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids), torch.tensor(mask)

    def _cut(self, row: list[int]) -> list[int]:
        (eos,) = self._trial.checkpoint.stop
        return row[: row.index(eos)] if eos in row else row


def compare(trial: Trial, rounds: int) -> dict[str, Any]:
    theirs = Theirs(trial)
    ways: dict[str, Callable[[], Answers]] = {
        "ours": lambda: ours(trial),
        "single": theirs.single,
        "batched": theirs.batched,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    answers = {way: run() for way, run in ways.items()}  # and warm
    for number in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            again = run()
            seconds[way].append(time.perf_counter() - start)
            if again != answers[way]:
                sys.exit(f"{trial.name}: {way} answers otherwise in round {number + 1} than before.")
            print(f"{trial.name} {way} round {number + 1}: {seconds[way][-1]:.2f} s", file=sys.stderr)
    if trial.fixed and any(len(answer) != trial.most for answer in answers["ours"]):
        sys.exit(f"{trial.name}: an answer ended early, so that lengths are not fixed.")
    middle = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "parameters": sum(p.numel() for p in trial.checkpoint.model.parameters()),
        "patches": trial.checkpoint.model.vision.patches,
        "pictures": len(list(trial.pictures)),
        "questions": len(trial.questions),
        "new_tokens": sum(map(len, answers["ours"])),
        "most": trial.most,
        "speedup_vs_single": middle["single"] / middle["ours"],
        "speedup_vs_batched": middle["batched"] / middle["ours"],
        "questions_per_second": {way: len(trial.questions) / time for way, time in middle.items()},
        "seconds": seconds,
        **agreement(trial, answers),
    }


def agreement(trial: Trial, answers: dict[str, Answers]) -> dict[str, Any]:
    """The share of questions with the same ids three times, and the first question with others."""
    rows = list(zip(trial.questions, *answers.values(), strict=True))
    same = [first == second == third for _, first, second, third in rows]
    found: dict[str, Any] = {"same_tokens": sum(same) / len(same)}
    if not all(same):
        question, *ids = rows[same.index(False)]
        found["first_difference"] = {"question": question.text, **dict(zip(answers, ids, strict=True))}
    return found


def make_trials(folder: Path, arguments: argparse.Namespace) -> list[Trial]:
    counts = {name: arguments.pictures or count for name, count in PICTURES.items()}
    write_world(folder / "world", max(counts.values()), 0, seed=5, workers=1)
    files = sorted((folder / "world" / "images").iterdir())
    trials = []
    for name, checkpoint, most in (
        ("starter", load_checkpoint("starter"), 48),
        ("random", random_llava(), 24),
    ):
        pictures = {file.name: open_image(file) for file in files[: counts[name]]}
        questions = make_questions(list(pictures), arguments.questions_per_picture)
        trials.append(Trial(name, checkpoint, questions, Memory(pictures), most, name == "random"))
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--questions-per-picture", type=int, default=5)
    parser.add_argument(
        "--pictures",
        type=int,
        help=f"of each model; {PICTURES['starter']} and {PICTURES['random']} if not given",
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vistune-answer-") as folder:
        trials = make_trials(Path(folder), arguments)
    models = {trial.name: compare(trial, arguments.rounds) for trial in trials}
    figures = {
        **{
            key: min(model[key] for model in models.values())
            for key in ("speedup_vs_single", "speedup_vs_batched")
        },
        "same_tokens": all(model["same_tokens"] == 1 for model in models.values()),
        "questions_per_picture": arguments.questions_per_picture,
        "batch": BATCH,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "models": models,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
