"""The options of `vistune generate`; those that contradict or would be ignored are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from vistune.data.records import FORMATS
from vistune.data.teachers.prompted import DEFAULT_PARAMETERS
from vistune.errors import VistuneError
from vistune.llm.asking import parameters

_PLACES = ("random", "first", "last")


class GenerateOptions(BaseModel):
    """The command's options, by their names there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Path
    out: Path
    captions: Path | None = None
    instances: Path | None = None
    annotations: Path | None = None
    teacher: str | None = None
    model: str | None = None
    base_url: str | None = None
    types: str = "conversation,detail,reasoning"
    mix: str | None = None
    limit: int | None = None
    seed: int = 0
    picture: str = "random"
    file_format: str = "json"
    attempts: int = 3
    conversation_boxes: bool = False
    reasoning_sees_dialogue: bool = False
    prompts: Path | None = None
    param: list[str] | None = None
    in_flight: int = 16
    timeout: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    patience: float = 60.0
    ledger: Path | None = None
    prices: Path | None = None
    max_cost: float | None = None
    dry_run: bool = False
    batch: bool = False


_FOR_LLM = (
    "base_url",
    "conversation_boxes",
    "prompts",
    "param",
    "attempts",
    "reasoning_sees_dialogue",
    "in_flight",
    "timeout",
    "patience",
    "requests_per_minute",
    "tokens_per_minute",
    "ledger",
    "prices",
    "max_cost",
    "dry_run",
    "batch",
)
_FOR_SENDING = ("base_url", "in_flight", "timeout", "patience", "requests_per_minute", "tokens_per_minute")


def refuse_ignored(options: GenerateOptions) -> None:
    """Raise VistuneError where options contradict one another or would be ignored."""
    if options.teacher not in (None, "offline", "llm"):
        raise VistuneError(f"Unknown teacher {options.teacher!r}. Choose: offline, llm.")
    if options.teacher == "llm" and options.model is None:
        raise VistuneError("--teacher llm needs --model.")
    if options.teacher == "offline" and options.model is not None:
        raise VistuneError("--model is for an LLM; leave it out, or --teacher offline.")
    if options.model is None and (flag := _first_given(options, _FOR_LLM)):
        raise VistuneError(f"{flag} is for an LLM; give --model, or leave it out.")
    if (options.batch or options.dry_run) and (flag := _first_given(options, _FOR_SENDING)):
        raise VistuneError(f"{flag} is for requests that are sent; --batch and --dry-run send none.")
    if options.annotations is not None and (options.captions or options.instances):
        raise VistuneError("Give either --annotations or COCO's --captions and --instances.")
    if options.dry_run and options.batch:
        raise VistuneError("Give either --dry-run or --batch.")
    if options.batch and options.max_cost is not None:
        raise VistuneError("--max-cost cannot stop a batch; look at --dry-run first.")
    if options.picture not in _PLACES:
        raise VistuneError(f"--picture {options.picture!r}: choose of {', '.join(_PLACES)}.")
    if options.file_format not in FORMATS:
        raise VistuneError(f"--format {options.file_format!r}: choose of {', '.join(FORMATS)}.")


def _first_given(options: GenerateOptions, names: tuple[str, ...]) -> str | None:
    """The first of these options that has not its default, as it is typed."""
    default = GenerateOptions(images=options.images, out=options.out)
    given = [name for name in names if getattr(options, name) != getattr(default, name)]
    return "--" + given[0].replace("_", "-") if given else None


def parse_parameters(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs over the teacher's defaults (:func:`vistune.llm.asking.parameters`)."""
    return parameters(given, DEFAULT_PARAMETERS)
