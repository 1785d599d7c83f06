"""Which benchmarks there are; each is imported only when it is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import Bench

MODULES = {  # benchmark -> the module that has it among its BENCHES
    "scienceqa": "scienceqa",
    "llava-bench-coco": "llava_bench",
    "llava-bench-wild": "llava_bench",
    "pope": "pope",
    "vqa": "vqa",
    "chair": "chair",
    "own": "own",
}


def find_bench(name: str) -> Bench:
    """The benchmark of that name.

    Raises:
        VistuneError: there is none; names the nearest, and all.
    """
    if name not in MODULES:
        raise VistuneError(f"{name}: no such benchmark.{_nearest(name)} There are {', '.join(MODULES)}.")
    module = import_module(f"vistune.evaluate.benches.{MODULES[name]}")
    benches: tuple[Bench, ...] = module.BENCHES
    return next(bench for bench in benches if bench.name == name)


def _nearest(name: str) -> str:
    wanted = name.lower().replace("_", "-").replace(" ", "-")
    near = get_close_matches(wanted, MODULES, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""
