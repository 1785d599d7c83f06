"""What a run would fail on later, found before anything is loaded: by a run and by a dry run alike."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from vistune.data.pictures import check_place
from vistune.errors import VistuneError
from vistune.model.outline import Outline, outline
from vistune.model.stored import settled
from vistune.recipe import Recipe, StageRecipe

CACHE = "cache"  # in the run's folder; a dry run leaves it for the run


def check_data(stages: Iterable[StageRecipe], data: Path, images: Path) -> None:
    """See that the files and the places of pictures are there.

    Raises:
        VistuneError: one of them is not.
    """
    if not data.is_dir():
        raise VistuneError(f"{data}: no such folder. --data names the folder of the recipe's data files.")
    stages = list(stages)
    places = {source.images for stage in stages for source in stage.data.values()}
    names = [name for stage in stages for name in stage.data]
    for held_out in [stage.validation for stage in stages if stage.validation]:
        names += [*held_out.data, *([held_out.questions] if held_out.questions else [])]
        places.add(held_out.images)
    for name in names:
        if not os.access(data / name, os.R_OK) or not (data / name).is_file():
            raise VistuneError(f"{data / name}: no such file that can be read.{_nearest(data, name)}")
    for place in places:
        check_place(data / place if place else images)


def settle(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with what ``model.start_from`` stores where it says nothing itself.

    Raises:
        VistuneError: the recipe contradicts what the checkpoint was trained with.
    """
    first = next(iter(recipe.stages.values()))
    return recipe.model_copy(update={"model": settled(recipe.model, first.template)})


def check_model(recipe: Recipe) -> Outline:
    """Read all of the model but its weights, and see that every stage's template can be written.

    Raises:
        VistuneError: a part cannot be read or does not fit, or a template is unknown.
    """
    found = outline(recipe.model, next(iter(recipe.stages.values())).template)
    for template in dict.fromkeys(recipe.template_of(name) for name in recipe.stages):
        found.renderer(template)
    return found


def check_size(stage: str, samples: int, processes: int) -> None:
    """Raise VistuneError if an epoch has fewer ``samples`` than there are ``processes``."""
    if samples < processes:
        raise VistuneError(
            f"stage {stage}: an epoch has {samples} samples, fewer than the {processes} processes. "
            f"Add data, or start at most {samples}: torchrun --nproc-per-node {samples}."
        )


def _nearest(data: Path, name: str) -> str:
    there = sorted(path.name for path in data.iterdir() if path.is_file())
    near = difflib.get_close_matches(name, there, n=1)
    if near:
        return f" Did you mean {near[0]}?"
    return f" In {data}: {', '.join(there[:8]) or 'no files'}{' ...' if len(there) > 8 else ''}."
