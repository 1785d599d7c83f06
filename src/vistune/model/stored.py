"""What a checkpoint remembers of the model's recipe, and what a run that starts from it may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vistune.errors import VistuneError
from vistune.model import parts
from vistune.model.swap import undo_broken_swap
from vistune.recipe import ModelRecipe

METADATA = "vistune.json"
STORED = ("template", "connector", "vision_layer", "vision_select", "preprocessing")
CHANGEABLE = ("picture", "max_length")


def read_metadata(name: str | Path) -> dict[str, Any]:
    """Return what vistune stored with a checkpoint; ``model`` is a :class:`ModelRecipe`.

    Raises:
        VistuneError: the folder is not a checkpoint of vistune, or its metadata is damaged.
    """
    folder = Path(parts.resolve(str(name)))
    undo_broken_swap(folder)
    if not (folder / METADATA).is_file():
        raise VistuneError(
            f"{folder}: not a vistune checkpoint ({METADATA} is missing). "
            "Pass the folder that `vistune train` wrote, `starter`, or what `vistune import` made of a plain "
            "LLaVA folder."
        )
    content = parts.read_json(folder, METADATA) or {}
    try:
        return {**content, "model": ModelRecipe.model_validate(content["model"])}
    except (KeyError, ValidationError) as error:
        raise VistuneError(f"{folder / METADATA}: `model` is not understood: {error}") from error


def continued(recipe: ModelRecipe, template: str | None = None) -> ModelRecipe:
    """Return what ``recipe.start_from`` stores, changed where ``recipe`` says so and may.

    Args:
        template: the first stage's, if it names one: it replaces the model's.

    Raises:
        VistuneError: the recipe contradicts what the checkpoint was trained with.
    """
    assert recipe.start_from is not None
    stored: ModelRecipe = read_metadata(recipe.start_from)["model"]
    said = recipe.model_fields_set - ({"template"} if template else set())
    for name in STORED:
        before, wanted = getattr(stored, name), getattr(recipe, name)
        if name in said and before != wanted:
            raise VistuneError(
                f"model.{name}: the recipe says {wanted!r}, but {recipe.start_from} was trained with "
                f"{before!r}. Leave the setting out, or name {before!r}."
            )
    changes = {name: getattr(recipe, name) for name in said & set(CHANGEABLE)}
    return stored.model_copy(update={**changes, "template": template or stored.template})


def settled(recipe: ModelRecipe, template: str | None = None) -> ModelRecipe:
    """Return ``recipe`` with what ``start_from`` stores where it says nothing itself.

    Args:
        template: as in :func:`continued`.
    """
    if recipe.start_from is None:
        return recipe
    found = continued(recipe, template)
    stored = {name: getattr(found, name) for name in (*STORED, *CHANGEABLE)}
    if "template" in recipe.model_fields_set:
        stored["template"] = recipe.template
    elif template:
        stored["template"] = read_metadata(recipe.start_from)["model"].template
    return recipe.model_copy(update=stored)
