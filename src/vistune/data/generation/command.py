"""What `vistune generate` does with its options: refuse what would be ignored, choose the teacher, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from vistune.data.generation.estimate import estimate
from vistune.data.generation.generate import Generated
from vistune.data.generation.generate import generate as write_data
from vistune.data.generation.plan import GenerationSettings, make_plan, parse_mix, parse_types
from vistune.data.records import FORMATS
from vistune.data.sources.annotated import Annotations
from vistune.data.sources.coco import load_coco
from vistune.data.sources.listing import load_listing
from vistune.data.teachers.prompted import DEFAULT_PARAMETERS, PromptedTeacher
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.teachers.teacher import Teacher
from vistune.errors import VistuneError
from vistune.llm.batch import BatchFolder
from vistune.llm.budget import Budget
from vistune.llm.client import Endpoint, LlmClient
from vistune.llm.ledger import Ledger, default_ledger
from vistune.llm.planning import Planner
from vistune.llm.prices import Price, find_price

_PLACES = ("random", "first", "last")


class GenerateOptions(BaseModel):
    """The command's options, by their names there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: Path
    out: Path
    captions: Path | None = None
    instances: Path | None = None
    annotations: Path | None = None
    teacher: str = "offline"
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


def run_generate(options: GenerateOptions) -> Iterator[str]:
    """Run the command; yields what it tells at the end.

    Raises:
        VistuneError: options that contradict or would be ignored; input or output that cannot be used; a
            run that had to stop early, after what it had is written.
    """
    _refuse_ignored(options)
    annotations = _load(options)
    settings = _settings(options, len(annotations.images))
    if options.model is None:
        yield from _report(
            write_data(annotations, OfflineTeacher(annotations.categories), options.out, settings), options
        )
        return
    parameters = parse_parameters(options.param or [])
    price = find_price(options.model, options.prices, options.batch)
    if options.max_cost is not None and price is None:
        raise VistuneError(f"--max-cost: no price is known for {options.model}. Give one with --prices FILE.")
    with Ledger(options.ledger or default_ledger()) as ledger:
        if options.dry_run:
            yield from _dry_run(options, annotations, settings, parameters, ledger, price)
        elif options.batch:
            yield from _batch(options, annotations, settings, parameters, ledger, price)
        else:
            _refuse_paying_twice(options.out / "batch", ledger)
            budget = Budget(price, options.max_cost)
            client = LlmClient(_endpoint(options), ledger, budget)
            teacher = _teacher(options, settings, client, parameters)
            result = write_data(annotations, teacher, options.out, settings)
            yield from _report(result, options)
            yield _spent(budget, price)
            if result.stopped:
                raise result.stopped


def parse_parameters(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs over the defaults; a value is read as YAML, ``null`` leaves the parameter out.

    Raises:
        VistuneError: a pair is no pair, or names what has an option of its own.
    """
    parameters: dict[str, Any] = dict(DEFAULT_PARAMETERS)
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name and equals) or name in ("model", "messages", "stream", "n", "seed"):
            raise VistuneError(
                f"--param {pair!r}: expected NAME=VALUE of a parameter that is free to choose."
            )
        try:
            parameters[name] = yaml.safe_load(value)
            json.dumps(parameters[name], allow_nan=False)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise VistuneError(f"--param {pair!r}: the value cannot be sent as JSON ({error}).") from error
    for name in ("max_tokens", "max_completion_tokens"):
        if not isinstance(parameters.get(name), int | None):
            raise VistuneError(f"--param {name}: expected a number of tokens, found {parameters[name]!r}.")
    return {name: value for name, value in parameters.items() if value is not None}


def _refuse_ignored(options: GenerateOptions) -> None:
    if options.teacher not in ("offline", "llm"):
        raise VistuneError(f"Unknown teacher {options.teacher!r}. Choose: offline, llm.")
    if options.teacher == "llm" and options.model is None:
        raise VistuneError("--teacher llm needs --model.")
    if options.model is None:
        default = GenerateOptions(images=options.images, out=options.out)
        ignored = [name for name in _FOR_LLM if getattr(options, name) != getattr(default, name)]
        if ignored:
            flag = "--" + ignored[0].replace("_", "-")
            raise VistuneError(f"{flag} is for an LLM; give --model, or leave it out.")
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


def _refuse_paying_twice(batch: Path, ledger: Ledger) -> None:
    if waiting := BatchFolder(batch, ledger, None).waiting():
        raise VistuneError(
            f"{batch}: {len(waiting)} requests of a batch still wait for their results, and would be "
            "paid for twice. Go on with --batch; or remove the folder, where there is no batch any more."
        )


def _load(options: GenerateOptions) -> Annotations:
    if options.annotations is not None:
        return load_listing(options.annotations, options.images, options.limit)
    return load_coco(options.captions, options.instances, options.images, options.limit)


def _settings(options: GenerateOptions, images: int) -> GenerationSettings:
    types = parse_types(options.types)
    mix = parse_mix(options.mix, images) if options.mix else None
    if mix and options.mix != "paper" and (left := [kind for kind in mix if kind not in types]):
        raise VistuneError(f"--mix counts {left[0]}, which --types leaves out. Make them agree.")
    return GenerationSettings(
        seed=options.seed,
        types=types,
        mix=mix,
        picture=options.picture,  # type: ignore[arg-type]
        attempts=options.attempts,
        reasoning_sees_dialogue=options.reasoning_sees_dialogue,
        file_format=options.file_format,
    )


def _endpoint(options: GenerateOptions) -> Endpoint:
    return Endpoint(
        options.base_url,
        options.in_flight,
        options.timeout,
        patience=options.patience,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
    )


def _teacher(
    options: GenerateOptions,
    settings: GenerationSettings,
    asker: LlmClient | Planner,
    parameters: dict[str, Any],
) -> PromptedTeacher:
    assert options.model is not None
    return PromptedTeacher(
        asker,
        options.model,
        parameters,
        # A few more than fit into flight, so that a sample that is read and checked leaves no gap.
        options.in_flight + options.in_flight // 4 + 1,
        options.prompts,
        settings.types,
        options.conversation_boxes,
    )


def _dry_run(
    options: GenerateOptions,
    annotations: Annotations,
    settings: GenerationSettings,
    parameters: dict[str, Any],
    ledger: Ledger,
    price: Price | None,
) -> Iterator[str]:
    assert options.model is not None
    planner = Planner(ledger)
    teacher = _teacher(options, settings, planner, parameters)
    found = estimate(make_plan(annotations.images, settings), teacher, planner, settings)
    yield from found.lines(options.model, price)


def _batch(
    options: GenerateOptions,
    annotations: Annotations,
    settings: GenerationSettings,
    parameters: dict[str, Any],
    ledger: Ledger,
    price: Price | None,
) -> Iterator[str]:
    folder = BatchFolder(options.out / "batch", ledger, price)
    yield from folder.read_results()
    planner = Planner(ledger)
    teacher: Teacher = _teacher(options, settings, planner, parameters)
    result = write_data(annotations, teacher, options.out, settings)
    yield from folder.write_requests(planner.pending.values())
    yield from _report(result, options)


def _report(result: Generated, options: GenerateOptions) -> Iterator[str]:
    for name, count in result.counts.items():
        yield f"{options.out / name}.{options.file_format}: {count}"
    for reason, count in result.quarantined.items():
        yield f"quarantined: {count} x {reason} (see {options.out / 'quarantine.jsonl'})"
    for reason, count in result.set_aside.items():
        yield f"set aside: {count} x {reason} (see {options.out / 'set_aside.jsonl'})"
    if result.pending:
        yield f"waiting for a reply: {result.pending}"


def _spent(budget: Budget, price: Price | None) -> str:
    return (
        f"spent: ${budget.spent:.4f}" if price else "spent: unknown (no price for this model; see --prices)"
    )
