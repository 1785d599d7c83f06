"""The recipe: one YAML file that describes a run. Strict: what would be ignored is refused."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vistune.errors import VistuneError

# Sections that a recipe may leave out, and an override may begin.
_OPTIONAL = ("run", "lora", "optimizer", "validation")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecipe(_Strict):
    """Which parts are joined, and how.

    Attributes:
        vision, llm: a folder in Hugging Face's format, a hub name, or ``starter/vision``, ``starter/llm``.
        connector: ``linear`` (LLaVA) or ``mlp2x_gelu`` (LLaVA-1.5).
        vision_layer: hidden state that is read; -2 is the second to last.
        vision_select: ``patch`` drops the class token, ``cls_patch`` keeps it.
        preprocessing: ``square`` as the encoder's own (CLIP: resize and crop the centre), ``pad`` to a
            square of the mean colour first, so that nothing is cut off (LLaVA-1.5).
        template: how conversations are written; stored with the weights.
        picture: where a question's picture stands: ``written`` as the data has it, or ``first``.
        max_length: longest sample in tokens, pictures included; a longer one is cut at a turn's end.
        start_from: a checkpoint to go on from, in the place of fresh parts.
    """

    vision: str | None = None
    llm: str | None = None
    connector: Literal["linear", "mlp2x_gelu"] = "linear"
    vision_layer: int = -2
    vision_select: Literal["patch", "cls_patch"] = "patch"
    preprocessing: Literal["square", "pad"] = "square"
    template: str = "vicuna_v1"
    picture: Literal["written", "first"] = "written"
    max_length: int = Field(2048, gt=0)
    start_from: str | None = None

    @model_validator(mode="after")
    def _one_beginning(self) -> ModelRecipe:
        parts = [name for name in ("vision", "llm") if getattr(self, name) is not None]
        if self.start_from is None and len(parts) < 2:
            raise ValueError("give `vision` and `llm`, or `start_from`")
        if self.start_from is not None and parts:
            raise ValueError(f"`{parts[0]}` would be ignored beside `start_from`")
        return self


class LoraRecipe(_Strict):
    """Low-rank adapters on every linear layer of the LLM but its head, and on every expert of a mixture.

    Attributes:
        dora: learn each row's magnitude apart from its direction (DoRA).
        merge: put adapters into the weights of a checkpoint; false keeps them apart, in peft's format.
        quantise: ``nf4`` keeps the frozen LLM in 4 bits while adapters are trained (QLoRA).
    """

    rank: int = Field(128, gt=0)
    alpha: float = Field(256, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    dora: bool = False
    merge: bool = True
    quantise: Literal["nf4"] | None = None


class OptimizerRecipe(_Strict):
    """AdamW, and what it holds for each trained weight. ``optimizer: adamw_8bit`` is short for ``kind``.

    Attributes:
        kind: ``adamw`` has moments of 32 bits, ``adamw_8bit`` of 8 (torchao).
        weights: ``bfloat16`` holds trained weights and gradients in 16 bits. Updates are rounded at random,
            so that small ones add up (torchao). Needs ``precision: bfloat16``.
        offload: keep the moments in the CPU's memory, and update the weights there; for one CUDA GPU. With
            ``weights: bfloat16``, the weights of 32 bits are there, too, and nothing is rounded at random.
    """

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    weights: Literal["float32", "bfloat16"] = "float32"
    offload: bool = False

    @model_validator(mode="after")
    def _nothing_ignored(self) -> OptimizerRecipe:
        if self.offload and self.kind != "adamw":
            raise ValueError(f"`kind: {self.kind}` would be ignored: `offload` keeps moments of 32 bits")
        return self


class SourceRecipe(_Strict):
    """One file of a stage's data.

    Attributes:
        passes: how often each record is seen in an epoch: 1 once, 2 twice. Of 0.5, each epoch sees half of
            the records, drawn anew: those that were seen least.
        share: the random part of the records that is used at all, the same in every epoch: 0.05 for 5%.
        images: where its pictures are, if not where the run's are: a folder, a zip or tar file, or a
            pattern of tar files; relative to the data folder.
    """

    passes: float = Field(1.0, gt=0)
    share: float = Field(1.0, gt=0, le=1)
    images: str | None = None


class ValidationRecipe(_Strict):
    """What a stage is measured on while it runs, and what follows from it.

    The loss is the mean over the supervised tokens of held-out records. Answers to held-out questions are
    greedy, and right if they match exactly, as `vistune evaluate CHECKPOINT own` counts them.

    Attributes:
        data: LLaVA-format files of held-out records, relative to the data folder; `vistune split` makes them.
        images: where the held-out pictures are, if not where the run's are; as ``data.FILE.images``.
        questions: file of held-out questions and answers, relative to the data folder: LLaVA's format, or
            records of ``question`` and ``answer``.
        limit: questions asked at most, spread evenly over their file.
        every: optimizer steps between two evaluations. By default as few as keep evaluations under 3% of the
            stage's computation, and at most 20 evaluations.
        stop_after: end the stage after this many evaluations in a row without a gain.
    """

    data: tuple[str, ...] = Field(min_length=1)
    images: str | None = None
    questions: str | None = None
    limit: int | None = Field(None, gt=0)
    every: int | None = Field(None, gt=0)
    stop_after: int | None = Field(None, gt=0)

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> ValidationRecipe:
        if self.limit is not None and self.questions is None:
            raise ValueError("`limit` would be ignored: it is for `questions`")
        return self


class StageRecipe(_Strict):
    """One stage: what is trained, on what, and how (paper Sec. 4.2).

    Attributes:
        trains: ``connector``, ``llm``, and ``vision``, of which the layers that are read. The paper keeps it
            frozen.
        data: LLaVA-format files, relative to the data folder; a number is the file's ``passes``.
        mix: ``passes`` as given, or ``uniform``: each file gives an equal part of an epoch, whatever its size
            (the paper's chat stage). The passes then give the epoch's length alone, and must be equal.
        learning_rate: of all that is trained, or of each trained part.
        batch_size: samples of one optimizer step, over all devices.
        max_steps: stop here even if epochs are left; the schedule ends here too.
        template: where this stage writes conversations otherwise than ``model.template``.
        lora: train adapters in the place of the LLM's own weights.
        optimizer: what takes less memory than AdamW in 32 bits.
        validation: what to measure the stage on while it runs.
    """

    trains: tuple[Literal["vision", "connector", "llm"], ...] = Field(min_length=1)
    data: dict[str, SourceRecipe] = Field(min_length=1)
    mix: Literal["passes", "uniform"] = "passes"
    learning_rate: float | dict[str, float]
    batch_size: int = Field(gt=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    template: str | None = None
    lora: LoraRecipe | None = None
    optimizer: OptimizerRecipe = Field(default_factory=lambda: OptimizerRecipe.model_validate({}))
    validation: ValidationRecipe | None = None

    @field_validator("optimizer", mode="before")
    @classmethod
    def _name_is_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("data", mode="before")
    @classmethod
    def _numbers_are_passes(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"passes": v} if isinstance(v, int | float) else v for k, v in value.items()}

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        if any(rate <= 0 for rate in (value.values() if isinstance(value, dict) else [value])):
            raise ValueError("must be greater than 0")
        return value

    @model_validator(mode="after")
    def _nothing_ignored(self) -> StageRecipe:
        if isinstance(self.learning_rate, dict) and set(self.learning_rate) != set(self.trains):
            raise ValueError(f"`learning_rate` must name what is trained: {', '.join(self.trains)}")
        if self.lora and "llm" not in self.trains:
            raise ValueError("`lora` would be ignored: the stage does not train the llm")
        if self.lora and not self.lora.merge and "vision" in self.trains:
            raise ValueError("`lora.merge: false` has no place for a trained encoder: leave `merge` out")
        if self.lora and self.optimizer.weights != "float32":
            raise ValueError("`optimizer.weights: bfloat16` saves nothing beside `lora`: adapters are small")
        if self.mix == "uniform" and len(self.data) == 1:
            raise ValueError("`mix: uniform` would be ignored: there is one file")
        if self.mix == "uniform" and len({source.passes for source in self.data.values()}) > 1:
            raise ValueError(
                "`mix: uniform` would ignore unequal passes: leave `mix` out to see files as often as their "
                "numbers say, or name `share` for a part of a file, for example {detail.json: {share: 0.05}}"
            )
        return self

    def rate_of(self, part: str) -> float:
        """The peak learning rate of a trained part."""
        return self.learning_rate[part] if isinstance(self.learning_rate, dict) else self.learning_rate


class RunRecipe(_Strict):
    """How a run is computed. Nothing here changes what is learned, but for rounding.

    Attributes:
        share_images: compute a picture once for all its dialogues of a step. Where it is on, an epoch's
            order keeps the dialogues on one picture together.
        fit: choose by the device's memory, for each stage, what the recipe does not give of ``row_tokens``
            (large ones), ``checkpoint_activations`` (only if there is no room) and ``compile`` (on a GPU).
        row_tokens: tokens that are computed at a time on one device (the micro-batch).
        features: ``cache`` computes the frozen encoder's features once, before a stage, and keeps them on
            disk; ``compute`` computes them at every step.
        workers: threads that decode pictures, one step ahead.
        bad_pictures: share of pictures that may turn out unreadable before a stage stops.
        save_steps: steps between two saves of all that a run needs to go on.
        keep: how many of a stage's saves are kept.
        checkpoint_activations: compute activations again in the backward pass; less memory, more time.
        compile: compile the decoder layers; worth its start-up on a GPU.
        trackers: where figures are shown besides ``metrics.jsonl``; each is optional, and a run goes on
            without one that is not installed or cannot log in.
    """

    share_images: bool = True
    fit: bool = False
    row_tokens: int = Field(4096, gt=0)
    features: Literal["compute", "cache"] = "compute"
    workers: int = Field(2, ge=1)
    bad_pictures: float = Field(0.01, ge=0, le=1)
    save_steps: int = Field(500, gt=0)
    keep: int = Field(1, ge=1)
    checkpoint_activations: bool = False
    compile: bool = False
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)

    @model_validator(mode="after")
    def _nothing_ignored(self) -> RunRecipe:
        if self.fit and {"row_tokens", "checkpoint_activations", "compile"} <= self.model_fields_set:
            raise ValueError("`fit` would be ignored: all that it chooses is given")
        return self


class Recipe(_Strict):
    """A whole run: the model, its stages in order, how it is computed, and what fixes its randomness."""

    model: ModelRecipe
    stages: dict[str, StageRecipe] = Field(min_length=1)
    run: RunRecipe = Field(default_factory=lambda: RunRecipe.model_validate({}))
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.optimizer.weights == "bfloat16" and self.precision != "bfloat16":
                raise ValueError(f"stages.{name}: `optimizer.weights: bfloat16` needs `precision: bfloat16`")
            if "vision" in stage.trains and self.run.features == "cache":
                raise ValueError(
                    f"stages.{name}: trains the vision encoder, whose features change with every step: "
                    "`run.features: cache` cannot keep them. Take `run.features: compute`"
                )
        first, stage = next(iter(self.stages.items()))
        if stage.lora and not stage.lora.merge and self.model.start_from is None:
            raise ValueError(
                f"stages.{first}: `lora.merge: false` needs a checkpoint that the adapters are for: a stage "
                "before this one, or `model.start_from`"
            )
        return self

    def template_of(self, stage: str) -> str:
        return self.stages[stage].template or self.model.template


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by path, or a shipped one by name, and apply ``key.key=value`` overrides.

    Raises:
        VistuneError: the file, a key or a value is wrong; the message names it and the nearest valid one.
    """
    source, content = _read(name)
    return parse_recipe(apply_overrides(content, overrides or []), source)


def apply_overrides(content: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Change a recipe's content, in place, by ``key.key=value`` overrides; return it."""
    for override in overrides:
        _apply(content, override)
    return content


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
        if head in _OPTIONAL:
            place.setdefault(head, {})
        place = place.get(head)
        if not isinstance(place, dict):
            raise VistuneError(f"{override!r}: the recipe has no section {head!r} there.")
        path = rest
        head, dot, rest = path.partition(".")
    place[path] = yaml.safe_load(value)


def _explain(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        models = (
            Recipe,
            ModelRecipe,
            StageRecipe,
            SourceRecipe,
            LoraRecipe,
            OptimizerRecipe,
            ValidationRecipe,
            RunRecipe,
        )
        known = {name for model in models for name in model.model_fields}
        return f"{path}: unknown setting" + _nearest(error["loc"][-1], known)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        message += f", not {error['input']!r}"
        message += _nearest(error["input"], set(re.findall(r"'([^']+)'", error["ctx"]["expected"])))
    return f"{path}: {message}"


def _nearest(found: Any, known: set[str]) -> str:
    near = difflib.get_close_matches(str(found), sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
