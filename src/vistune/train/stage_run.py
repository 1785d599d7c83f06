"""One stage of a run, from its data to its checkpoint, on one process of the team."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vistune.data.corpus import Corpus, load_corpus
from vistune.data.pictures import PictureSources
from vistune.data.pixels import PixelStore
from vistune.errors import count_by_reason, write_problems
from vistune.model.adapters import experts_note
from vistune.model.apart import take_apart
from vistune.model.checkpoint import Checkpoint, save_checkpoint
from vistune.model.cpu_linear import CpuKernel
from vistune.model.hf import llava_state
from vistune.model.llava import Llava
from vistune.progress import meter, say
from vistune.recipe import Recipe, RunRecipe
from vistune.train.broken import BrokenPictures
from vistune.train.cautions import cautions, ends_above_guessing
from vistune.train.check import CACHE, check_size
from vistune.train.complete import describe
from vistune.train.compute import PRECISION, explained_loading, explained_out_of_memory, set_up
from vistune.train.curves import draw_curves
from vistune.train.feed import Features, Pictures, Pixels
from vistune.train.journal import Journal
from vistune.train.loader import Loader, Prepared
from vistune.train.metrics import read_metrics
from vistune.train.optimizers import make_optimizer
from vistune.train.order import Order, count_steps, digest, mixed_seed
from vistune.train.parallel import Team, shard
from vistune.train.placing import materialize, structure
from vistune.train.plan.estimate import communicates_once
from vistune.train.plan.fitting import fit_run, told_fit
from vistune.train.plan.sketch import sketch
from vistune.train.record import linear_library
from vistune.train.saves import Saves
from vistune.train.stage import StepResult, optimizer_step, schedule
from vistune.train.start import exact_weights, start
from vistune.train.validation import (
    VALIDATION,
    Validation,
    load_held_out,
    read_validation,
    step_tokens,
    told_held_out,
)


@dataclass(frozen=True)
class Place:
    """What a run reads, and where it writes."""

    data: Path
    images: Path
    out: Path


class StageRun:
    """A stage, about to run.

    Args:
        number: from 1.
        before: the checkpoint of the stage before; None for the first.
    """

    def __init__(
        self, number: int, name: str, recipe: Recipe, place: Place, team: Team, before: Path | None
    ) -> None:
        self._title = f"stage {number} ({name})"
        self._name, self._recipe, self._place, self._team, self._before = name, recipe, place, team, before
        self._stage, self._run = recipe.stages[name], recipe.run
        self._folder = place.out / name
        self._precision = PRECISION[recipe.precision]
        self._once = False

    def run(self) -> float:
        """Train the stage, from its last save where there is one, and write its checkpoint.

        Returns:
            The seconds that went into it, without those that an interruption lost.

        Raises:
            VistuneError: data, parts or settings do not allow it; or no room is left.
        """
        begun = time.monotonic()
        self._run = self._fitted()
        with explained_loading():
            checkpoint = start(self._recipe, self._name, self._before, whole=self._team.leads)
        counts = checkpoint.model.set_trained(set(self._stage.trains))
        corpus = self._corpus(checkpoint)
        check_size(self._name, len(corpus.selection), self._team.size)
        steps = count_steps(self._stage, len(corpus.selection))
        self._announce(counts, corpus, steps, checkpoint.model)
        if self._team.leads:
            self._caution(cautions(corpus, steps, checkpoint.tokenizer))
        self._move(checkpoint.model)
        if self._team.device.type == "cpu" and self._precision is torch.float32:
            self._choose_library(checkpoint.model.cpu_kernel)
        self._once = self._communicates_once()
        order = self._order(corpus)
        self._team.agree("the order of the samples", digest(corpus, order))
        shown = corpus.pictures(np.flatnonzero(order.times_shown(steps)))
        with ExitStack() as stack:
            pictures = stack.enter_context(closing(self._pictures(checkpoint, corpus.sources, shown)))
            broken = BrokenPictures(shown, self._run.bad_pictures, self._team, pictures.broken)
            kept = self._folder / "saves"
            about = describe(self._recipe, self._name, self._before, kept)
            saves = Saves(kept, self._run.keep, self._team, about, begun)
            validation = self._validation(checkpoint, corpus, order, steps, saves.latest())
            if validation:
                stack.enter_context(closing(validation))
            with explained_loading():
                shard(
                    checkpoint.model, self._team, self._precision, lambda part: materialize(part, self._team)
                )
            loader = self._loader(checkpoint, corpus, order, pictures)
            self._learn(checkpoint, loader, pictures, broken, saves, steps, validation)
        self._finish(checkpoint, corpus, broken)
        saves.finish()
        self._team.wait()
        return saves.seconds

    def _choose_library(self, kernel: CpuKernel) -> None:
        """All processes multiply by the library that the leader chooses, or that the run began with."""

        def choose(before: str | None) -> str:
            if before is not None and kernel.take(before):
                return before
            return kernel.choose(self._run.row_tokens, gradients=True)

        chosen = linear_library(self._place.out, choose) if self._team.leads else ""
        kernel.take(self._team.gather(chosen)[0])

    def _fitted(self) -> RunRecipe:
        """How the stage is computed; the leader decides for all what the recipe leaves open."""
        run = self._run
        if run.fit and self._team.leads:
            model, kind = sketch(self._recipe.model), self._team.device.type
            longest = self._recipe.model.max_length
            size, memory = self._team.size, self._team.memory
            run = fit_run(model, self._stage, run, self._precision, size, memory, kind, longest)
            for line in told_fit(run):
                say(f"{self._title}: {line}")
        return self._team.gather(run)[0]

    def _communicates_once(self) -> bool:
        """Whether each process has room for all gradients, so that a step communicates them only once."""
        if self._team.size == 1:
            return False
        fits = False
        if self._team.leads:
            model, team = sketch(self._recipe.model), self._team
            fits = communicates_once(model, self._stage, self._run, self._precision, team.size, team.memory)
        return self._team.gather(fits)[0]

    def _move(self, model: Llava) -> None:
        """Give weights their precision, and then move them: what is cast takes no room on a GPU. On several
        processes the LLM follows, layer by layer, when it is spread."""
        with explained_loading():
            set_up(model, self._run, self._precision, PRECISION[self._stage.optimizer.weights])
            self._team.agree("the model's weights", structure(model))
            materialize(model if self._team.size == 1 else model.vision, self._team)

    def _corpus(self, checkpoint: Checkpoint) -> Corpus:
        with self._team.leader_first():
            corpus = load_corpus(
                self._stage,
                self._place.data,
                self._place.images,
                checkpoint.renderer,
                self._recipe.model.max_length,
                self._recipe.seed,
                self._place.out / CACHE,
                self._recipe.model.picture,
            )
        return corpus

    def _announce(self, counts: dict[str, int], corpus: Corpus, steps: int, model: Llava) -> None:
        if not self._team.leads:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_problems(self._folder / "set_aside.jsonl", corpus.problems)
        trained = ", ".join(f"{name} ({count:,})" for name, count in counts.items() if count)
        frozen = ", ".join(name for name, count in counts.items() if not count)
        chosen = corpus.selection.epoch(0)
        tokens, supervised = int(corpus.lengths[chosen].sum()), int(corpus.supervised[chosen].sum())
        say(f"{self._title}: trains {trained}; frozen: {frozen}")
        say(
            f"{self._title}: {len(chosen):,} samples an epoch, {tokens:,} tokens, {supervised:,} of them "
            f"supervised; {steps:,} steps of {self._stage.batch_size}"
        )
        lora = self._stage.lora
        if lora and (note := experts_note(model.language_model, lora)):
            say(f"{self._title}: {note}")
        computing = model.computing
        for line in computing.lines():
            say(f"{self._title}: {line}")
        if self._run.share_images and not computing.packs:
            say(f"{self._title}: run.share_images spares nothing then; it only orders the samples")
        if corpus.cut:
            say(f"{self._title}: cut at a turn's end, as longer than max_length: {corpus.cut}")
        for reason, count in count_by_reason(corpus.problems).items():
            say(f"{self._title}: set aside: {count} x {reason}")

    def _caution(self, lines: Iterable[str]) -> None:
        for line in lines:
            say(f"{self._title}: caution: {line}")

    def _order(self, corpus: Corpus) -> Order:
        share = self._run.share_images
        return Order(corpus.selection, corpus.groups, self._stage.batch_size, self._recipe.seed, share)

    def _validation(
        self, checkpoint: Checkpoint, corpus: Corpus, order: Order, steps: int, first: int
    ) -> Validation | None:
        place, recipe = self._place, self._recipe
        with self._team.leader_first():
            held_out = load_held_out(
                recipe, self._name, place.data, place.images, checkpoint, place.out / "cache"
            )
        if held_out is None:
            return None
        each = step_tokens(order, corpus, self._stage)
        every = held_out.every(steps, each)
        for line in told_held_out(held_out, every, steps, each, corpus):
            say(f"{self._title}: {line}")
        return Validation(
            held_out,
            checkpoint,
            self._pictures(checkpoint, held_out.corpus.sources, held_out.pictures()),
            self._team,
            self._run.row_tokens,
            self._folder,
            first,
            every,
            steps,
            lambda to: self._save(checkpoint, to),
        )

    def _pictures(self, checkpoint: Checkpoint, sources: PictureSources, names: list[str]) -> Pictures:
        store = PixelStore(sources, checkpoint.preprocess, workers=self._run.workers)
        pixels = Pixels(store, checkpoint.preprocess.size)
        if self._run.features == "compute":
            return pixels
        kept = self._place.out / CACHE / "features"
        features = Features(kept, checkpoint.model.vision, self._precision)
        with closing(pixels):
            features.add(names, pixels, self._team)
        return features

    def _loader(self, checkpoint: Checkpoint, corpus: Corpus, order: Order, pictures: Pictures) -> Loader:
        return Loader(
            corpus,
            order,
            pictures,
            self._team,
            checkpoint.model.image_token,
            self._run.row_tokens,
            self._run.share_images,
            checkpoint.model.computing.rows,
        )

    def _learn(
        self,
        checkpoint: Checkpoint,
        loader: Loader,
        pictures: Pictures,
        broken: BrokenPictures,
        saves: Saves,
        steps: int,
        validation: Validation | None,
    ) -> None:
        model, first = checkpoint.model.train(), saves.latest()
        optimizer = make_optimizer(model, self._stage)
        if first:
            broken.restore(saves.load(first, model, optimizer).get("broken", {}))
            pictures.broken |= (
                broken.found
            )  # nothing is learned from them, as if there had been no interruption
            say(f"{self._title}: goes on with step {first + 1}")
        broken.add({})  # what was found while features were computed
        with (
            closing(loader.steps(first, steps)) as prepared_steps,
            saves,
            Journal(self._folder, self._recipe, first, model, self._team, self._precision) as journal,
            meter(self._title, steps, first) as progress,
        ):
            for step, prepared in enumerate(prepared_steps, first):
                result = self._step(model, optimizer, prepared, step, steps)
                if result.broken:
                    broken.add(prepared.broken)
                note = journal.note(step, result, optimizer, prepared)
                if validation:
                    journal.held_out(validation.after(step + 1, saves.latest))
                    note += validation.note
                progress.advance(note)
                if validation and validation.stops:
                    break
                if (step + 1) % self._run.save_steps == 0 and step + 1 < steps:
                    saves.save(step + 1, model, optimizer, {"broken": broken.state()})
                    journal.resume()
        if validation:
            validation.finish()
        model.eval()

    def _step(
        self, model: Llava, optimizer: torch.optim.Optimizer, prepared: Prepared, step: int, steps: int
    ) -> StepResult:
        # Dropout, too, is a function of the step's number.
        torch.manual_seed(mixed_seed(self._recipe.seed, step, self._team.size, self._team.rank))
        with explained_out_of_memory(self._run):
            return optimizer_step(
                model,
                optimizer,
                [batch.to(self._team.device) for batch in prepared.batches],
                schedule(step, steps, self._stage.warmup_ratio),
                self._stage.max_gradient_norm,
                self._team,
                len(prepared.broken),
                self._once,
            )

    def _finish(self, checkpoint: Checkpoint, corpus: Corpus, broken: BrokenPictures) -> None:
        if self._team.leads:
            problems = broken.found.values()
            write_problems(self._folder / "set_aside.jsonl", [*corpus.problems, *problems])
            for problem in problems:
                say(f"{self._title}: not learned from: {problem.place}: {problem.reason}")
            logs = {name: self._place.out / name / "metrics.jsonl" for name in self._recipe.stages}
            rows = {name: read_metrics(log) for name, log in logs.items() if log.exists()}
            held_out = {name: read_validation(log.with_name(VALIDATION)) for name, log in logs.items()}
            draw_curves(rows, self._place.out / "curves.png", held_out)
            self._caution(ends_above_guessing(rows.get(self._name, []), corpus))
        self._save(checkpoint, self._folder / "checkpoint")

    def _save(self, checkpoint: Checkpoint, folder: Path) -> None:
        """All processes gather the weights; the leader writes them."""
        run = {"recipe": self._recipe.model_dump(mode="json"), "stage": self._name}
        if self._stage.lora and not self._stage.lora.merge:
            base = str(self._before or self._recipe.model.start_from)
            apart = take_apart(checkpoint.model, base, keep=self._team.leads)
            if apart:
                save_checkpoint(checkpoint, folder, run, apart=apart)
            return
        exact = exact_weights(self._recipe, self._name, self._before) if self._team.leads else None
        state = llava_state(checkpoint.model, exact, keep=self._team.leads)
        if not self._team.leads:
            return
        save_checkpoint(checkpoint, folder, run, state=state)
