"""How fast records are prepared for training: the first start of a stage, before its first step.

    python benchmarks/prepare.py --json FILE [--records 20000]

The records are shaped like LLaVA-Instruct-158K (``benchmarks/check.py`` describes them), with 576 tokens a
picture; the tokenizer is of LLaMA's and Vicuna's kind (BPE over whole texts with ``Metaspace``), trained on
the texts to about 1.3 tokens a word.

What is timed is ``load_corpus`` with an empty cache. ``records_per_second``: reading and checking the JSON,
writing ids and trained ranges behind an Arrow memory map. ``pictures_per_second``: looking at the header of
each picture, once. ``seconds`` holds both; ``again_seconds`` is a second start, which finds all in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from vistune.data import corpus
from vistune.recipe import StageRecipe
from vistune.template import Renderer, find_template
from vistune.train.record import processor

try:
    from benchmarks.check import PICTURES, RECORDS, make_records, write_data, write_pictures
except ModuleNotFoundError:  # run by its path
    from check import PICTURES, RECORDS, make_records, write_data, write_pictures

PATCHES, VOCABULARY = 576, 220


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="File to write the figures to.")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vistune-prepare-") as name:
        figures = measure(Path(name), arguments.records, arguments.seed)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def measure(folder: Path, records: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    names = write_pictures(folder / "images", max(1, round(records * PICTURES / RECORDS)), rng)
    write_data(folder / "data.json", records, names, rng)
    renderer = make_renderer(make_texts(names))
    first, looking, loaded = timed_load(folder, renderer)
    again, _, _ = timed_load(folder, renderer)
    if len(loaded) != records or loaded.problems:
        sys.exit(f"the corpus misjudged its data: {len(loaded)} of {records} records, {loaded.problems[:3]}")
    return {
        "records_per_second": round(records / (first - looking), 1),
        "pictures_per_second": round(len(names) / looking, 1),
        "seconds": round(first, 2),
        "again_seconds": round(again, 2),
        "records": records,
        "pictures": len(names),
        "tokens_per_record": round(float(loaded.lengths.mean()), 1),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def timed_load(folder: Path, renderer: Renderer) -> tuple[float, float, corpus.Corpus]:
    """Seconds of a start, those of them for looking at pictures, and what was loaded."""
    stage = StageRecipe.model_validate(
        {"trains": ["connector"], "data": {"data.json": 1}, "learning_rate": 1e-3, "batch_size": 32}
    )
    look, looking = corpus.look_at_pictures, 0.0

    def timed_look(*args: Any) -> Any:
        nonlocal looking
        started = time.perf_counter()
        found = look(*args)
        looking += time.perf_counter() - started
        return found

    with patch.object(corpus, "look_at_pictures", timed_look):
        started = time.perf_counter()
        loaded = corpus.load_corpus(stage, folder, folder / "images", renderer, 2048, 0, folder / "cache")
        return time.perf_counter() - started, looking, loaded


def make_texts(names: list[str]) -> list[str]:
    some = make_records(300, names, random.Random("texts"))
    return [turn["value"] for record in some for turn in record["conversations"]]


def make_renderer(texts: list[str]) -> Renderer:
    """One with the template ``vicuna_v1`` and a tokenizer trained on ``texts``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    special = ["<unk>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    # A trained vocabulary of Metaspace knows no word across a space; as LLaMA's, it is not split there.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)  # type: ignore[assignment]
    backend.decoder = decoders.Metaspace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<image>"],
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    return Renderer(find_template("vicuna_v1", tokenizer), tokenizer, image_token, PATCHES)


if __name__ == "__main__":
    main()
