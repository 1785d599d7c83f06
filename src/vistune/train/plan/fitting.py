"""What ``run.fit`` leaves to the device: rows as large as it has room for, activations kept, compiling."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vistune.model.llava import Llava
from vistune.recipe import RunRecipe, StageRecipe
from vistune.train.plan.estimate import estimate_stage

# Tokens of a row, the best first. A GPU is busy with fewer; longer rows are read and communicated less often.
# A CPU gains nothing by more.
_ROWS = {"cuda": (16384, 8192, 4096, 2048), "cpu": (4096, 2048)}


def fit_run(
    model: Llava,
    stage: StageRecipe,
    run: RunRecipe,
    precision: torch.dtype,
    devices: int,
    memory: int,
    kind: str,
    longest: int,
) -> RunRecipe:
    """Return ``run`` with all that ``fit`` leaves open; what the recipe gives stays.

    Smaller rows are taken before activations are computed again: that costs a third of the time. If nothing
    fits, it is what takes the least memory.

    Args:
        model: a :func:`vistune.train.plan.sketch.sketch`; it is left as it is.
        memory: bytes of each of ``devices``.
        kind: of device: ``cuda`` or ``cpu``.
        longest: tokens of the longest sample; no row is smaller.
    """
    if not run.fit:
        return run
    choices = list(_choices(run, kind, longest))
    fitting = (c for c in choices if estimate_stage(model, stage, c, precision, devices).fits(memory))
    return next(fitting, choices[-1])


def told_fit(run: RunRecipe) -> Iterator[str]:
    """Say what :func:`fit_run` has chosen."""
    if run.fit:
        again = "computed again in the backward pass" if run.checkpoint_activations else "kept"
        compiled = ", layers compiled" if run.compile else ""
        yield f"run.fit: rows of {run.row_tokens:,} tokens, activations {again}{compiled}"


def _choices(run: RunRecipe, kind: str, longest: int) -> Iterator[RunRecipe]:
    """What may be chosen, the best first and what takes the least memory last."""
    given = run.model_fields_set
    rows = [tokens for tokens in _ROWS[kind] if tokens >= longest] or [longest]
    compiled = run.compile if "compile" in given else kind == "cuda"
    for again in (run.checkpoint_activations,) if "checkpoint_activations" in given else (False, True):
        for tokens in (run.row_tokens,) if "row_tokens" in given else rows:
            chosen = {"row_tokens": tokens, "checkpoint_activations": again, "compile": compiled}
            yield run.model_copy(update=chosen)
