"""Extraction on Ray Data: the same blocks through the same extractor, on as many machines as Ray knows.

A cluster is found through ``RAY_ADDRESS``, and each of its machines needs ``vistune[ray,curate]``; the
caption files need to be on the first one alone. Without a cluster, Ray starts on this machine. Machines with
different processors may round differently in the last bit, which can change a rare parse.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from vistune.data.curate.phrases import Block, BlockPhrases, Extractor, Parser
from vistune.errors import VistuneError


def check_ray() -> None:
    """Raise VistuneError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise VistuneError("--engine ray needs Ray. Install it: pip install 'vistune[ray]'.")


def extract_on_ray(blocks: Iterable[Block], parser: Parser, workers: int | None) -> Iterator[BlockPhrases]:
    """The phrases of each block, in order.

    Blocks lie in Ray's object store, which goes to disk where memory is short; each is one row of the data
    set, so that however Ray bundles rows, every block is parsed as the local engine would.

    Args:
        workers: actors that find noun phrases; None: one for each processor that Ray has.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report its use to its makers
    import pyarrow
    import ray
    import ray.data

    data: Any = ray.data
    ours = not ray.is_initialized()
    if ours:
        cpus = None if "RAY_ADDRESS" in os.environ else workers
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = (pyarrow.table({"block": [n], "captions": [block]}) for n, block in enumerate(blocks))
        stored = [ray.put(row) for row in rows]
        cores = int(ray.cluster_resources().get("CPU", 1))
        actors = min(workers or cores, cores, len(stored))
        found = data.from_arrow_refs(stored).map_batches(
            _RayExtractor,
            fn_constructor_args=(parser,),
            batch_size=None,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=actors),
            num_cpus=1,
        )
        for expected, row in enumerate(found.iter_rows()):
            if row["block"] != expected:
                raise VistuneError(f"Ray gave block {row['block']} where {expected} was due. Run it again.")
            yield BlockPhrases(list(row["phrases"]), list(row["lengths"]), list(row["numbers"]))
    finally:
        if ours:
            ray.shutdown()


class _RayExtractor:
    """Rows of captions, a block each -> rows of their phrases."""

    def __init__(self, parser: Parser) -> None:
        self._extract = Extractor(parser)

    def __call__(self, rows: Any) -> Any:
        import pyarrow

        numbers = pyarrow.list_(pyarrow.int32())
        schema = pyarrow.schema(
            {
                "block": pyarrow.int64(),
                "phrases": pyarrow.list_(pyarrow.string()),
                "lengths": numbers,
                "numbers": numbers,
            }
        )
        found = [asdict(self._extract(captions)) for captions in rows["captions"].to_pylist()]
        columns = {name: [block[name] for block in found] for name in ("phrases", "lengths", "numbers")}
        return pyarrow.table({"block": rows["block"], **columns}, schema)
