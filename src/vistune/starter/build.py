"""Rebuild the embedded parts: vision encoder, LLM, and the finished chat checkpoint that joins them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.world.write import write_world
from vistune.evaluate.answering.run import Asking, evaluate
from vistune.evaluate.benches.bench import BenchFiles
from vistune.model.checkpoint import load_checkpoint, save_checkpoint
from vistune.progress import say
from vistune.recipe import load_recipe
from vistune.starter.curves import draw_curves
from vistune.starter.llm import LlmSettings, build_llm
from vistune.starter.vision import VisionSettings, build_vision
from vistune.train.loop import train

_STORED = torch.float16  # half the bytes; loaded as float32


@dataclass(frozen=True)
class BuildSettings:
    """How much of everything; the defaults are what vistune ships."""

    llm: LlmSettings = field(default_factory=LlmSettings)
    vision: VisionSettings = field(default_factory=VisionSettings)
    chat_pictures: int = 20_000
    chat_unseen: int = 400
    chat_overrides: tuple[str, ...] = ("stages.instruct.epochs=5",)


def build(out: Path, seed: int, settings: BuildSettings | None = None) -> None:
    """Write ``out/{llm,vision,chat}``, ``build.jsonl`` (what was measured) and ``curves.svg``.

    Finished parts are kept, so an interrupted build goes on with the first that is missing.
    """
    settings = settings or BuildSettings()
    out.mkdir(parents=True, exist_ok=True)
    log = _Log(out / "build.jsonl")
    log({"part": "settings", "seed": seed, "threads": torch.get_num_threads(), **asdict(settings)})
    _part(out / "llm", lambda: _build_llm(out / "llm", settings.llm, seed, log))
    _part(out / "vision", lambda: _build_vision(out, settings.vision, seed, log))
    _part(out / "chat", lambda: _build_chat(out, settings, seed, log))
    draw_curves(out / "build.jsonl", out / "curves.svg")


class _Log:
    """Appends rows to a JSON-lines file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, row: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _part(folder: Path, work: Callable[[], None]) -> None:
    if folder.is_dir():
        say(f"{folder}: already finished")
    else:
        work()


def _build_llm(folder: Path, settings: LlmSettings, seed: int, log: _Log) -> None:
    start = time.monotonic()
    model, tokenizer, scores = build_llm(settings, seed, log)
    tokenizer.save_pretrained(folder.with_suffix(".part"))
    model.to(_STORED).save_pretrained(folder.with_suffix(".part"))
    folder.with_suffix(".part").rename(folder)
    log({"part": "llm", "finished": True, "minutes": _minutes(start), **scores})


def _build_vision(out: Path, settings: VisionSettings, seed: int, log: _Log) -> None:
    from transformers import AutoTokenizer

    start, folder = time.monotonic(), out / "vision.part"
    tokenizer = AutoTokenizer.from_pretrained(out / "llm")
    model, preprocess, scores = build_vision(settings, tokenizer, seed, log)
    model.to(_STORED).save_pretrained(folder)
    preprocess.save(folder)
    folder.rename(out / "vision")
    log({"part": "vision", "finished": True, "minutes": _minutes(start), **scores})


def _build_chat(out: Path, settings: BuildSettings, seed: int, log: _Log) -> None:
    """The starter recipe on more pictures, with a longer second stage."""
    start, work = time.monotonic(), out / "chat-run"
    shipped = load_recipe("starter", [f"seed={seed}", *settings.chat_overrides])
    here = {"vision": str(out / "vision"), "llm": str(out / "llm")}
    recipe = shipped.model_copy(update={"model": shipped.model.model_copy(update=here)})
    images = work / "world" / "images"
    if not (work / "data").is_dir():
        _build_chat_data(work, settings, seed)
    trained = train(recipe, work / "data" / "train", images, work / "train")
    asked = BenchFiles(data=work / "data" / "val" / "conversation.json")
    scored = evaluate(trained, "own", asked, images, work / "evaluation", Asking(blind=True)).scored
    scores = scored.to_json() if scored else {}
    checkpoint = load_checkpoint(trained)
    named = type(checkpoint)(checkpoint.model, checkpoint.tokenizer, checkpoint.preprocess, shipped.model)
    save_checkpoint(named, out / "chat", {"recipe": shipped.model_dump(mode="json")}, _STORED)
    log({"part": "chat", "finished": True, "minutes": _minutes(start), **scores})


def _build_chat_data(work: Path, settings: BuildSettings, seed: int) -> None:
    """A world of its own: no quickstart draws from this seed's stream."""
    world = work / "world"
    if not (world / "captions_val.json").exists():
        write_world(world, settings.chat_pictures, settings.chat_unseen, chat_seed(seed))
    for part in ("val", "train"):
        annotations = load_coco(
            world / f"captions_{part}.json", world / f"instances_{part}.json", world / "images"
        )
        how = GenerationSettings(seed=seed, picture="first")
        generate(annotations, OfflineTeacher(annotations.categories), work / "data" / part, how)


def chat_seed(seed: int) -> int:
    """The world seed of the chat checkpoint: negative, so that none of a user's runs shares its scenes."""
    return -1 - seed


def _minutes(start: float) -> float:
    return round((time.monotonic() - start) / 60, 2)
