"""What `vistune generate` does: load, choose the teacher, write, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vistune.data.generation.estimate import estimate
from vistune.data.generation.generate import Generated
from vistune.data.generation.generate import generate as write_data
from vistune.data.generation.options import GenerateOptions, parse_parameters, refuse_ignored
from vistune.data.generation.plan import GenerationSettings, make_plan, parse_mix, parse_types
from vistune.data.sources.annotated import Annotations
from vistune.data.sources.coco import load_coco
from vistune.data.sources.listing import load_listing
from vistune.data.teachers.prompted import PromptedTeacher
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.teachers.teacher import Teacher
from vistune.errors import VistuneError
from vistune.llm.batch import BatchFolder
from vistune.llm.budget import Budget
from vistune.llm.client import Endpoint, LlmClient
from vistune.llm.ledger import Ledger, default_ledger
from vistune.llm.planning import Planner
from vistune.llm.prices import Price, find_price


def run_generate(options: GenerateOptions) -> Iterator[str]:
    """Run the command; yields what it tells at the end.

    Raises:
        VistuneError: options that contradict or would be ignored; input or output that cannot be used; a
            run that had to stop early, after what it had is written.
    """
    refuse_ignored(options)
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
    with Ledger(options.ledger or default_ledger(), read_only=options.dry_run) as ledger:
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
