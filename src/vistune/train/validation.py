"""Validation: a stage's loss on held-out records and its answers to held-out questions, while it runs.

Every process takes part: rows are shared out as in training, and questions are split between the processes.
Nothing of the training is touched, so a run learns the same with validation as without.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vistune.data.corpus import Corpus, load_corpus
from vistune.data.pack import plant
from vistune.data.pictures import PictureSources
from vistune.data.questions import MOST, is_right, read_questions
from vistune.errors import VistuneError
from vistune.model.asking import prompt_of
from vistune.model.checkpoint import Checkpoint
from vistune.model.decode import Prompt, complete
from vistune.progress import say
from vistune.question import Question
from vistune.recipe import Recipe, SourceRecipe, StageRecipe, ValidationRecipe
from vistune.train.best import BEST, BestCheckpoint, HeldOutRow, best_of, without_gain
from vistune.train.evaluating import evaluating, gathered
from vistune.train.feed import Pictures
from vistune.train.loader import Loader
from vistune.train.metrics import read_metrics
from vistune.train.order import InTurn, Order
from vistune.train.parallel import Team

VALIDATION = "validation.jsonl"
_COST, _EVALUATIONS = 0.03, 20  # at most: share of a stage's computation, and how many by default
_SOME_STEPS = 20  # by which a step's tokens are estimated
_WRITING = 12  # tokens that are read in the time in which one is written, on a GPU; a CPU writes faster


@dataclass(frozen=True)
class HeldOut:
    """What a stage is measured on.

    Attributes:
        corpus: held-out records.
        questions: held-out questions that can be asked, those on one picture side by side.
        prompts: as the model reads them.
        tokens: computed for one evaluation; a written one counts as ``_WRITING`` that are read.
    """

    recipe: ValidationRecipe
    corpus: Corpus
    questions: Sequence[Question]
    prompts: Sequence[Prompt]
    tokens: int

    def pictures(self) -> list[str]:
        """All pictures that are looked at, each once."""
        asked = (name for prompt in self.prompts for name in prompt.pictures)
        return list(dict.fromkeys([*self.corpus.pictures(), *asked]))

    def every(self, steps: int, step_tokens: float) -> int:
        """Optimizer steps between two evaluations.

        Args:
            steps: of the whole stage.
            step_tokens: computed in a step; its backward pass counts, too.
        """
        if self.recipe.every:
            return min(self.recipe.every, steps)
        cheap = math.ceil(self.tokens / (_COST * max(1.0, step_tokens)))
        return min(steps, max(cheap, math.ceil(steps / _EVALUATIONS)))


def load_held_out(
    recipe: Recipe, stage: str, data: Path, images: Path, checkpoint: Checkpoint, cache: Path
) -> HeldOut | None:
    """Open what ``stage`` is measured on; None if its recipe names nothing.

    Raises:
        VistuneError: a file cannot be read, or nothing is left of it.
    """
    wanted = recipe.stages[stage].validation
    if wanted is None:
        return None
    sources = {name: SourceRecipe.model_validate({"images": wanted.images}) for name in wanted.data}
    as_stage = recipe.stages[stage].model_copy(update={"data": sources, "mix": "passes"})
    corpus = load_corpus(
        as_stage,
        data,
        images,
        checkpoint.renderer,
        recipe.model.max_length,
        recipe.seed,
        cache,
        recipe.model.picture,
    )
    inside = not wanted.images or (data / wanted.images).resolve() == images.resolve()
    questions, prompts = _asked(wanted, data, "" if inside else str(wanted.images), checkpoint)
    written = (len(checkpoint.tokenizer(q.references[0]).input_ids) for q in questions)
    reading = sum(len(prompt.ids) for prompt in prompts)
    order = InTurn(corpus.groups)
    tokens = packed_tokens(corpus, order, len(order)) + reading + _WRITING * sum(written)
    return HeldOut(wanted, corpus, questions, prompts, tokens)


def packed_tokens(corpus: Corpus, order: InTurn | Order, steps: int) -> int:
    """Tokens of the first ``steps`` of ``order``, in trees."""
    arrays = corpus.lengths, corpus.prefixes, corpus.groups
    return sum(tree.tokens for step in range(steps) for tree in plant(order.records(step), *arrays))


def step_tokens(order: Order, corpus: Corpus, stage: StageRecipe) -> float:
    """Tokens of a training step, on average; what the backward pass computes counts as much again, and twice
    as much where the LLM's own weights get gradients."""
    some = min(_SOME_STEPS, order.steps_per_epoch)
    whole = "llm" in stage.trains and stage.lora is None
    return (3 if whole else 2) * packed_tokens(corpus, order, some) / some


def _asked(
    wanted: ValidationRecipe, data: Path, label: str, checkpoint: Checkpoint
) -> tuple[list[Question], list[Prompt]]:
    if wanted.questions is None:
        return [], []
    path = data / wanted.questions
    read = read_questions(path)
    found = read.questions
    if wanted.limit and wanted.limit < len(found):
        chosen = np.linspace(0, len(found) - 1, wanted.limit).round().astype(int)
        found = [found[number] for number in chosen]
    order = {name: number for number, name in reversed(list(enumerate(q.image for q in found)))}
    found = sorted(found, key=lambda question: order[question.image])
    pairs = [(question, _named(prompt_of(checkpoint, question), label)) for question in found]
    room = checkpoint.recipe.max_length - MOST
    fitting = [(question, prompt) for question, prompt in pairs if len(prompt.ids) <= room]
    if not fitting:
        raise VistuneError(f"{path}: every question is longer than {room} tokens. Raise `model.max_length`.")
    if left_out := len(read.problems) + len(pairs) - len(fitting):
        say(f"{path}: {left_out} questions are malformed or longer than {room} tokens and are not asked")
    return [question for question, _ in fitting], [prompt for _, prompt in fitting]


def _named(prompt: Prompt, label: str) -> Prompt:
    return replace(prompt, pictures=tuple(PictureSources.name(label, name) for name in prompt.pictures))


class Validation:
    """Measures a stage, keeps its best checkpoint and says when to stop.

    Args:
        pictures: of records and questions; read once for each of the two.
        folder: the stage's.
        first: the step that comes next; later evaluations of an interrupted run are undone.
        every: steps between two evaluations; one comes after the last step, too.
        save: writes a complete checkpoint; all processes call it.
    """

    def __init__(
        self,
        held_out: HeldOut,
        checkpoint: Checkpoint,
        pictures: Pictures,
        team: Team,
        row_tokens: int,
        folder: Path,
        first: int,
        every: int,
        steps: int,
        save: Callable[[Path], None],
    ) -> None:
        self._held_out, self._checkpoint, self._pictures = held_out, checkpoint, pictures
        self._team, self._save = team, save
        self._folder, self._every, self._steps = folder, every, steps
        corpus, self._order = held_out.corpus, InTurn(held_out.corpus.groups)
        image_token = checkpoint.model.image_token
        self._loader = Loader(
            corpus,
            self._order,
            pictures,
            team,
            image_token,
            row_tokens,
            share=True,
            rows=checkpoint.model.computing.rows,
        )
        self._best = BestCheckpoint(folder)
        log = folder / VALIDATION
        self.rows = [row for row in read_validation(log) if row.step <= first]
        if team.leads:
            self._best.resume(first, best_of(self.rows))
            self._write()

    def after(self, step: int, saved: Callable[[], int]) -> HeldOutRow | None:
        """Measure if it is time, after ``step`` steps; keep the checkpoint if it is the best so far.

        Args:
            saved: tells the step from which an interrupted run would resume.
        """
        if step % self._every and step != self._steps:
            return None
        start = time.perf_counter()
        row = self._measure(step)
        best = row.rank > max((other.rank for other in self.rows), default=(-math.inf, -math.inf))
        if best and self._team.leads:
            self._best.take(row, saved(), self._save)
        elif best:
            self._save(self._folder / BEST)  # takes part in gathering the weights; the leader writes
        self.rows.append(replace(row, seconds=round(time.perf_counter() - start, 2)))
        if self._team.leads:
            self._write()
        return self.rows[-1]

    @property
    def stops(self) -> bool:
        """Whether the stage has gone without a gain for as long as it may."""
        limit = self._held_out.recipe.stop_after
        return limit is not None and without_gain(self.rows) >= limit

    @property
    def note(self) -> str:
        """What the progress line shows."""
        best = best_of(self.rows)
        if best is None:
            return ""
        last = self.rows[-1]
        answers = f", answers {last.accuracy:.1%}" if last.accuracy is not None else ""
        return f", held out {last.loss:.3f}{answers} (best after step {best.step})"

    def close(self) -> None:
        """End the threads that load pictures."""
        self._pictures.close()

    def finish(self) -> None:
        """Say what came of it, after the last step."""
        best = best_of(self.rows)
        if best is None or not self._team.leads:
            return
        self._best.finish()
        answers = f", {best.accuracy:.1%} of {best.questions} answers right" if best.questions else ""
        say(f"{self._folder / BEST}: after step {best.step}: held-out loss {best.loss:.3f}{answers}")

    def _measure(self, step: int) -> HeldOutRow:
        model = self._checkpoint.model
        with evaluating(model):
            loss = self._loss()
            if not self._held_out.questions:
                return HeldOutRow(step, loss)
            with gathered(model), torch.compiler.set_stance("force_eager"):
                right, asked = self._right_answers()
        right, asked = self._team.total(right), self._team.total(asked)
        return HeldOutRow(step, loss, right / max(1, asked), int(asked))

    def _loss(self) -> float:
        """Mean over the supervised tokens of all held-out records."""
        model, device = self._checkpoint.model, self._team.device
        total, supervised = torch.zeros((), dtype=torch.float64, device=device), 0
        for prepared in self._loader.steps(0, len(self._order)):
            for batch in prepared.batches:
                total += model(batch.to(device)).double()
                supervised += len(batch.targets)
        return self._team.total(float(total)) / max(1.0, self._team.total(supervised))

    def _right_answers(self) -> tuple[float, float]:
        """Of this process's questions: how many were answered exactly, and how many could be asked."""
        questions, team, checkpoint = self._held_out.questions, self._team, self._checkpoint
        mine = np.array_split(np.arange(len(questions)), team.size)[team.rank]
        prompts = [self._held_out.prompts[number] for number in mine]
        right = asked = 0
        for number, ids in complete(checkpoint.model, prompts, self._load, checkpoint.stop, MOST):
            if not self._pictures.broken.keys().isdisjoint(prompts[number].pictures):
                continue
            text = checkpoint.tokenizer.decode(ids, skip_special_tokens=True).strip()
            right += is_right(questions[mine[number]], text)
            asked += 1
        return right, asked

    def _load(self, names: Sequence[str]) -> Tensor:
        """Pictures as the encoder's weights are; of features, as the connector takes them."""
        pictures = self._pictures.load(names)
        weight = next(self._checkpoint.model.vision.parameters())
        return pictures.to(weight.dtype) if weight.is_floating_point() else pictures

    def _write(self) -> None:
        path = self._folder / VALIDATION
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(asdict(row)) + "\n" for row in self.rows), encoding="utf-8")
        part.replace(path)


def read_validation(path: Path) -> list[HeldOutRow]:
    """Read the evaluations of a stage; none if it has no ``validation.jsonl``."""
    return [HeldOutRow(**row) for row in read_metrics(path)] if path.exists() else []


def told_held_out(
    held_out: HeldOut, every: int, steps: int, step_tokens: float, trained_on: Corpus
) -> Iterator[str]:
    """Say what a stage is measured on, how often, and what of it is also trained on."""
    wanted, names = held_out.recipe, held_out.pictures()
    questions = f", {len(held_out.questions):,} questions" if held_out.questions else ""
    by = "accuracy, then loss" if held_out.questions else "loss"
    count = math.ceil(steps / every)
    share = count * held_out.tokens / (count * held_out.tokens + steps * step_tokens)
    yield (
        f"held out: {len(held_out.corpus):,} records, {len(names):,} pictures{questions}; measured every "
        f"{every:,} steps, {count:,} times, about {share:.1%} of the computation; best/ is kept by {by}"
    )
    if wanted.stop_after:
        yield (
            f"stops after {wanted.stop_after} evaluations without a gain; the learning-rate schedule stays "
            f"that of all {steps:,} steps"
        )
    if both := sorted(set(trained_on.pictures()).intersection(names)):
        yield (
            f"{len(both):,} of {len(names):,} held-out pictures are also trained on, for example {both[0]}: "
            "held-out figures will look too good. `vistune split` splits by picture."
        )
    if held_out.corpus.problems:
        first = held_out.corpus.problems[0]
        count = len(held_out.corpus.problems)
        yield f"held out: set aside: {count:,}; the first: {first.place}: {first.reason}"
