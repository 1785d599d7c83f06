"""A run: stage after stage, with metrics and saves on the way and a complete checkpoint at each end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vistune.data.batch import Batch
from vistune.data.corpus import Corpus, load_corpus
from vistune.data.pixels import PixelStore
from vistune.errors import count_by_reason, write_problems
from vistune.folders import claim
from vistune.model.adapters import add_adapters
from vistune.model.checkpoint import Checkpoint, join_parts, load_checkpoint, save_checkpoint
from vistune.model.hf import llava_state
from vistune.model.llava import Llava
from vistune.progress import meter, say
from vistune.recipe import Recipe, StageRecipe
from vistune.train.curves import draw_curves
from vistune.train.feed import Features, Pictures, Pixels
from vistune.train.journal import Journal
from vistune.train.loader import Loader
from vistune.train.metrics import read_metrics
from vistune.train.order import Order, count_steps
from vistune.train.parallel import Team, assemble, shard
from vistune.train.saves import Saves
from vistune.train.stage import StepResult, make_optimizer, optimizer_step, schedule

PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MANY = 1_000_003  # more than a stage has steps


@dataclass(frozen=True)
class Place:
    """What a run reads, and where it writes."""

    data: Path
    images: Path
    out: Path


def train(recipe: Recipe, data: Path, images: Path, out: Path) -> Path:
    """Run every stage of ``recipe``; a run that was interrupted goes on from its last save.

    A stage writes ``out/NAME/``: ``metrics.jsonl``, ``set_aside.jsonl``, ``saves/`` while it runs, and
    ``checkpoint/``. A resumed run equals an uninterrupted one. Under ``torchrun``, every process calls this.

    Returns:
        The folder of the last stage's checkpoint.

    Raises:
        VistuneError: ``out`` holds a run of another recipe, or a stage cannot run.
    """
    place = Place(data, images, out)
    with assemble() as team:
        with team.leader_first():
            claim(out, "run.json", _identity(recipe, place))
        folder: Path | None = None
        for number, name in enumerate(recipe.stages, 1):
            target = out / name / "checkpoint"
            if target.is_dir():
                say(f"stage {number} ({name}): already finished")
            else:
                _Stage(number, name, recipe, place, team, folder).run()
            folder = target
    assert folder is not None  # a recipe has at least one stage
    return folder


def read_all_metrics(out: Path, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The logged steps of each stage that has begun."""
    files = {name: out / name / "metrics.jsonl" for name in recipe.stages}
    return {name: read_metrics(file) for name, file in files.items() if file.exists()}


def _identity(recipe: Recipe, place: Place) -> dict[str, Any]:
    """What must not change while a run goes on. How it is computed may, but for the order of samples."""
    learned = recipe.model_dump(mode="json", exclude={"run"})
    learned["share_images"] = recipe.run.share_images
    return {"recipe": learned, "data": str(place.data), "images": str(place.images)}


class _Stage:
    """One stage on one process."""

    def __init__(
        self, number: int, name: str, recipe: Recipe, place: Place, team: Team, before: Path | None
    ) -> None:
        self.title = f"stage {number} ({name})"
        self.name, self.recipe, self.place, self.team, self.before = name, recipe, place, team, before
        self.stage = recipe.stages[name]
        self.folder = place.out / name
        self.precision = PRECISION[recipe.precision]

    def run(self) -> None:
        checkpoint = self._begin()
        model = checkpoint.model
        counts = model.set_trained(set(self.stage.trains))
        corpus = self._corpus(checkpoint)
        steps = count_steps(self.stage, len(corpus.selection))
        if self.team.leads:
            _announce(self.title, self.stage, counts, corpus, steps)
        pictures = self._pictures(checkpoint, corpus)
        if self.recipe.run.checkpoint_activations:
            model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.recipe.run.compile:
            for layer in model.language_model.get_decoder().layers:
                layer.compile()
        shard(model, self.team, self.precision)
        optimizer = make_optimizer(model, self.stage)
        order = Order(
            corpus.selection,
            corpus.groups,
            self.stage.batch_size,
            self.recipe.seed,
            self.recipe.run.share_images,
        )
        loader = Loader(
            corpus,
            order,
            pictures,
            self.team,
            model.image_token,
            self.recipe.run.row_tokens,
            self.recipe.run.share_images,
            self.recipe.run.bad_pictures,
        )
        saves = Saves(self.folder / "saves", self.recipe.run.keep, self.team)
        self._learn(checkpoint, optimizer, loader, saves, steps)
        problems = [*corpus.problems, *pictures.broken.values()]
        if self.team.leads:
            write_problems(self.folder / "set_aside.jsonl", problems)
            for problem in pictures.broken.values():
                say(f"{self.title}: not learned from: {problem.place}: {problem.reason}")
        self._save(checkpoint, self.folder / "checkpoint")
        saves.finish()
        self.team.wait()

    def _begin(self) -> Checkpoint:
        """The stage's beginning, on this process's device."""
        template, lora = self.recipe.template_of(self.name), self.stage.lora
        quantise = lora.quantise if lora else None
        if self.before is None:
            checkpoint = join_parts(self.recipe.model, self.recipe.seed, self.stage.template, quantise)
        else:
            checkpoint = load_checkpoint(self.before, quantise).with_recipe(template=template)
        if lora:
            add_adapters(checkpoint.model.language_model, lora, self.recipe.seed)
        checkpoint.model.to(self.team.device)
        return checkpoint

    def _corpus(self, checkpoint: Checkpoint) -> Corpus:
        with self.team.leader_first():
            corpus = load_corpus(
                self.stage,
                self.place.data,
                self.place.images,
                checkpoint.renderer,
                self.recipe.model.max_length,
                self.recipe.seed,
                self.place.out / "cache",
                self.recipe.model.picture,
            )
        if self.team.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_problems(self.folder / "set_aside.jsonl", corpus.problems)
        return corpus

    def _pictures(self, checkpoint: Checkpoint, corpus: Corpus) -> Pictures:
        store = PixelStore(corpus.sources, checkpoint.preprocess, workers=self.recipe.run.workers)
        pixels = Pixels(store, checkpoint.preprocess.size)
        if self.recipe.run.features == "compute":
            return pixels
        with self.team.leader_first():
            features = Features(
                self.place.out / "cache" / "features", checkpoint.model.vision, self.precision
            )
            features.add(corpus.pictures(), pixels, self.team.device)
        return features

    def _learn(
        self,
        checkpoint: Checkpoint,
        optimizer: torch.optim.Optimizer,
        loader: Loader,
        saves: Saves,
        steps: int,
    ) -> None:
        model, first = checkpoint.model.train(), saves.latest()
        if first:
            saves.load(first, model, optimizer)
            say(f"{self.title}: goes on with step {first + 1}")
        with (
            Journal(self.folder, self.place.out, first, model, self.team, self.precision) as journal,
            meter(self.title, steps, first) as progress,
        ):
            for step, prepared in enumerate(loader.steps(first, steps), first):
                result = self._step(model, optimizer, prepared.batches, step, steps)
                progress.advance(journal.note(step, result, optimizer, prepared))
                if (step + 1) % self.recipe.run.save_steps == 0 and step + 1 < steps:
                    saves.save(step + 1, model, optimizer, lambda to: self._save(checkpoint, to))
                    journal.resume()
        if self.team.leads:
            draw_curves(read_all_metrics(self.place.out, self.recipe), self.place.out / "curves.png")
        model.eval()

    def _step(
        self, model: Llava, optimizer: torch.optim.Optimizer, batches: list[Batch], step: int, steps: int
    ) -> StepResult:
        # Dropout, too, is a function of the step's number.
        torch.manual_seed((self.recipe.seed * _MANY + step) * self.team.size + self.team.rank)
        return optimizer_step(
            model,
            optimizer,
            [batch.to(self.team.device) for batch in batches],
            schedule(step, steps, self.stage.warmup_ratio),
            self.stage.max_gradient_norm,
            self.precision,
            self.team,
        )

    def _save(self, checkpoint: Checkpoint, folder: Path) -> None:
        """All processes gather the weights; the leader writes them."""
        state = llava_state(checkpoint.model)
        if self.team.leads:
            run = {"recipe": self.recipe.model_dump(mode="json"), "stage": self.name}
            save_checkpoint(checkpoint, folder, run, state=state)


def _announce(title: str, stage: StageRecipe, counts: dict[str, int], corpus: Corpus, steps: int) -> None:
    trained = ", ".join(f"{name} ({count:,})" for name, count in counts.items() if count)
    frozen = ", ".join(name for name, count in counts.items() if not count)
    chosen = corpus.selection
    tokens, supervised = int(corpus.lengths[chosen].sum()), int(corpus.supervised[chosen].sum())
    say(f"{title}: trains {trained}; frozen: {frozen}")
    say(
        f"{title}: {len(chosen):,} samples, {tokens:,} tokens, {supervised:,} of them supervised; "
        f"{steps:,} steps of {stage.batch_size}"
    )
    if corpus.cut:
        say(f"{title}: cut at a turn's end, as longer than max_length: {corpus.cut}")
    for reason, count in count_by_reason(corpus.problems).items():
        say(f"{title}: set aside: {count} x {reason}")
