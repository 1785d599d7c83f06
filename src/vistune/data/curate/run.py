"""Files of captioned images -> the balanced pairs, their statistics and the picture of both."""

from __future__ import annotations

import json
import platform
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vistune import __version__
from vistune.conversation import Conversation, ask, gpt, human, to_json
from vistune.data.curate.index import IndexWriter, PhraseIndex, Postings, mapped
from vistune.data.curate.local import extract_locally
from vistune.data.curate.phrases import BLOCK, Engine, Parser, find_parser
from vistune.data.curate.plot import plot_frequencies
from vistune.data.curate.select import select
from vistune.data.curate.settings import Curated, Settings
from vistune.data.curate.source import Source
from vistune.data.records import write_records, writing
from vistune.errors import VistuneError, write_problems
from vistune.folders import claim
from vistune.processes import all_cores
from vistune.progress import meter, say
from vistune.prompts import question_list, question_list_digest

_CLAIM, _RECORD, _WORK = "run.json", "curation.json", "work"


def curate(files: Sequence[Path], out: Path, settings: Settings | None = None) -> Curated:
    """Select image-text pairs by the noun-phrase rule of CC3M's filter (paper App. E).

    Writes ``out/alignment.{json,jsonl,parquet}``, the kept pairs as stage-1 conversations in the order of
    the files, each with a brief-description question drawn at random; ``curation.json``, the statistics and
    every setting; ``phrases.svg``, phrase frequency before and after; and ``set_aside.jsonl``. The files are
    read three times: to check and count, to find noun phrases, to write. Memory is bounded by the number of
    unique phrases. After an interruption the same call goes on with the noun phrases already found; rule and
    seed may be others.

    Args:
        files: TSV, CSV, JSON lines or Parquet; see :mod:`vistune.data.curate.pairs`.

    Raises:
        VistuneError: no caption can be read, a file changed meanwhile, spaCy or its model (or Ray, where
            asked for) is missing, or ``out`` holds something else.
    """
    with writing(out):
        return _curate(files, out, settings or Settings())


def _curate(files: Sequence[Path], out: Path, settings: Settings) -> Curated:
    start = time.monotonic()
    source = Source(files, settings.longest)
    parser = find_parser(settings.model, settings.normalisation)
    engine = _engine(settings, parser, source.captions)
    claim(out, _CLAIM, _identity(source, parser))
    index = _index(source, engine, out / _WORK)
    pool = _select(index, source.captions, settings)
    _write_pairs(source, pool, out, settings)
    after = index.counts_in(pool)
    plot_frequencies(out / "phrases.svg", index.counts, after, settings.rule)
    considered = index.counts >= settings.rule.min_count
    result = Curated(
        captions=source.captions,
        unique_phrases=len(index.phrases),
        phrases_kept=int(considered.sum()),
        phrases_capped=int((considered & (index.counts > settings.rule.cap)).sum()),
        kept=int(pool.sum()),
        unique_phrases_after=int(np.count_nonzero(after)),
        without_phrase=int((index.lengths == 0).sum()),
        set_aside=dict(source.set_aside.most_common()),
        seconds=round(time.monotonic() - start, 2),
    )
    _write_record(out / _RECORD, result, settings, source, parser)
    (out / _CLAIM).unlink()
    shutil.rmtree(out / _WORK)
    return result


def _engine(settings: Settings, parser: Parser, captions: int) -> Engine:
    if settings.engine == "ray":
        from vistune.data.curate.on_ray import check_ray, extract_on_ray

        check_ray()
        return partial(extract_on_ray, parser=parser, workers=settings.workers)
    workers = min(settings.workers or all_cores(), -(-captions // BLOCK))
    return partial(extract_locally, parser=parser, workers=workers)


def _index(source: Source, engine: Engine, folder: Path) -> PhraseIndex:
    """Find the noun phrases of all captions, but for those of an interrupted run."""
    with IndexWriter(folder) as writer:
        if done := writer.state.captions:
            say(f"going on after {done} captions, of which the noun phrases are known")
        left = source.captions - done
        with meter("finding noun phrases", left) as progress:
            for phrases in engine(source.blocks(done)) if left else ():
                writer.add(phrases)
                progress.advance(by=len(phrases.lengths))
        _expect_unchanged(source, writer.state.captions)
    return PhraseIndex.open(folder)


def _expect_unchanged(source: Source, captions: int) -> None:
    if captions != source.captions:
        raise VistuneError(
            f"{', '.join(map(str, source.files))}: held {source.captions} captions, and then {captions}. "
            "Leave the files alone during a run; remove --out and start again."
        )


def _select(index: PhraseIndex, captions: int, settings: Settings) -> np.ndarray:
    """[captions] bool, on disk: which are kept."""
    pool = mapped(index.folder / "pool.bool", "w+", np.bool_, captions)
    postings = Postings(index, settings.rule.min_count)
    select(index.phrases, index.counts, postings, settings.rule, settings.seed, pool)
    return pool


def _write_pairs(source: Source, pool: np.ndarray, out: Path, settings: Settings) -> None:
    rng, questions = random.Random(f"curate/{settings.seed}/questions"), question_list("brief")

    def records() -> Iterator[dict[str, Any]]:
        number = -1
        for number, pair in enumerate(source.pairs()):
            if number < len(pool) and pool[number]:
                turns = (human(*ask(rng.choice(questions), pair.image)), gpt(pair.caption))
                yield to_json(Conversation(pair.id, turns))
        _expect_unchanged(source, number + 1)

    write_records(out / f"alignment.{settings.format}", records())
    write_problems(out / "set_aside.jsonl", source.problems())


def _identity(source: Source, parser: Parser) -> dict[str, Any]:
    """All that the noun phrases depend on; an interrupted run goes on only where it is the same."""
    return {
        "files": source.identity(),
        "longest": source.longest,
        "block": BLOCK,
        "parser": asdict(parser),
    }


def _write_record(path: Path, result: Curated, settings: Settings, source: Source, parser: Parser) -> None:
    record = {
        "vistune": __version__,
        "python": platform.python_version(),
        "spacy": parser.spacy,
        "model": parser.model,
        "model_version": parser.version,
        "question_list": question_list_digest("brief"),
        "files": source.identity(),
        "settings": asdict(settings),
        **asdict(result),
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
