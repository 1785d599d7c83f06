"""Extraction on this machine: one model in each of several processes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from vistune.data.curate.phrases import Block, BlockPhrases, Extractor, Parser
from vistune.errors import VistuneError
from vistune.processes import live_with_parent

_AHEAD = 3  # blocks on their way for each process: none waits, and memory stays bounded

_extractor: Extractor  # of a worker process, which has no other work


def extract_locally(blocks: Iterable[Block], parser: Parser, workers: int) -> Iterator[BlockPhrases]:
    """The phrases of each block, in order; about 200 MB for each of the ``workers`` processes.

    Raises:
        VistuneError: a process was ended from outside.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(parser,))
    under_way: deque[Future[BlockPhrases]] = deque()
    try:
        for block in blocks:
            under_way.append(pool.submit(_extract, block))
            if len(under_way) >= _AHEAD * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        remedy = "Is memory short? The same command with fewer --workers goes on from here."
        raise VistuneError(f"A process that finds noun phrases ended unexpectedly. {remedy}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(parser: Parser) -> None:
    global _extractor
    live_with_parent()
    # spaCy imports torch where it finds it: seconds and 200 MB for each process, and no use to this model.
    if not parser.model.endswith("_trf"):
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    _extractor = Extractor(parser)


def _extract(block: Block) -> BlockPhrases:
    return _extractor(block)
