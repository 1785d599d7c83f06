"""The recipe: one YAML file that describes a run. Strict: what would be ignored is refused."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vistune.errors import VistuneError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecipe(_Strict):
    """Which parts are joined, and how.

    Attributes:
        vision, llm: a folder in Hugging Face's format, a hub name, or ``starter/vision``, ``starter/llm``.
        connector: ``linear`` (LLaVA) or ``mlp2x_gelu`` (LLaVA-1.5).
        vision_layer: hidden state that is read; -2 is the second to last.
        vision_select: ``patch`` drops the class token, ``cls_patch`` keeps it.
        template: how conversations are written; stored with the weights.
        max_length: longest sample in tokens, picture included; a longer one is set aside.
    """

    vision: str
    llm: str
    connector: Literal["linear", "mlp2x_gelu"] = "linear"
    vision_layer: int = -2
    vision_select: Literal["patch", "cls_patch"] = "patch"
    template: str = "vicuna_v1"
    max_length: int = Field(2048, gt=0)


class StageRecipe(_Strict):
    """One stage: what is trained, on what, and how (paper Sec. 4.2).

    Attributes:
        data: LLaVA-format files, relative to the data folder; the value is how often each record is seen
            in an epoch: 1 once, 0.5 a random half of them, 2 twice.
        batch_size: samples of one optimizer step.
        micro_batch_size: samples computed at a time; all of the step at once where it is not given.
        max_steps: stop here even if epochs are left; the schedule ends here too.
    """

    trains: tuple[Literal["connector", "llm"], ...] = Field(min_length=1)
    data: dict[str, float] = Field(min_length=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(gt=0)
    micro_batch_size: int | None = Field(None, gt=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)


class Recipe(_Strict):
    """A whole run: the model, its stages in order, and what fixes its randomness."""

    model: ModelRecipe
    stages: dict[str, StageRecipe] = Field(min_length=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by path, or a shipped one by name, and apply ``key.key=value`` overrides.

    Raises:
        VistuneError: the file, a key or a value is wrong; the message names it and the nearest valid one.
    """
    source, content = _read(name)
    for override in overrides or []:
        _apply(content, override)
    return parse_recipe(content, source)


def parse_recipe(content: Any, source: str) -> Recipe:
    """Validate a recipe's content; ``source`` names it in messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise VistuneError(f"{source}: " + "; ".join(_explain(e) for e in error.errors())) from error


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with vistune."""
    folder = resources.files("vistune.recipes")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def _read(name: str) -> tuple[str, dict[str, Any]]:
    if name in shipped_recipes():
        text = resources.files("vistune.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            shipped = ", ".join(shipped_recipes())
            raise VistuneError(f"{name}: neither a recipe file nor a shipped recipe ({shipped}).") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise VistuneError(f"{name}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise VistuneError(f"{name}: expected a mapping with `model` and `stages`.")
    return name, content


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise VistuneError(f"{override!r}: expected key=value, for example stages.instruct.epochs=2.")
    place: Any = content
    head, dot, rest = path.partition(".")
    while dot and path not in place:  # a key may hold dots itself: data.conversation.json
        place = place.get(head)
        if not isinstance(place, dict):
            raise VistuneError(f"{override!r}: the recipe has no section {head!r} there.")
        path = rest
        head, dot, rest = path.partition(".")
    place[path] = yaml.safe_load(value)


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{path}: {error['msg']}"
    known = {name for model in (Recipe, ModelRecipe, StageRecipe) for name in model.model_fields}
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    return f"{path}: unknown setting" + (f"; did you mean {near[0]!r}?" if near else "")
