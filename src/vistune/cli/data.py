"""Commands that make and check data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vistune.cli.app import app, convert
from vistune.cli.options import (
    BaseUrl,
    InFlight,
    LedgerFile,
    MaxCost,
    Out,
    Param,
    Patience,
    PerMinute,
    Prices,
    Seed,
    Timeout,
)


@app.command()
def world(
    out: Out,
    images: Annotated[int, typer.Option(min=1, help="Scenes to learn from (train).")] = 1000,
    val: Annotated[int, typer.Option(min=0, help="Scenes to measure on (val).")] = 100,
    seed: Seed = 0,
) -> None:
    """Write a sample world: scenes of emoji pictures in COCO's format."""
    from vistune.data.world.write import write_world

    write_world(out, images, val, seed)
    print(out)


@app.command()
def generate(
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    out: Annotated[Path, typer.Option(help="Folder to write; new, or of the same command run before.")],
    captions: Annotated[Path | None, typer.Option(help="COCO captions file.")] = None,
    instances: Annotated[Path | None, typer.Option(help="COCO instances file.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Instead of COCO: JSON lines of image, captions, boxes.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Who writes: offline (rules, no LLM; the default) or llm.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The LLM's name; it writes.")] = None,
    base_url: BaseUrl = None,
    types: Annotated[str, typer.Option(help="Types to write.")] = "conversation,detail,reasoning",
    mix: Annotated[
        str | None, typer.Option(help="How many: conversation=58000,detail=23000,reasoning=77000; or paper.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many images.")] = None,
    seed: Seed = 0,
    picture: Annotated[
        str, typer.Option(help="Where it stands in the first question: random, first or last.")
    ] = "random",
    file_format: Annotated[str, typer.Option("--format", help="json, jsonl or parquet.")] = "json",
    attempts: Annotated[int, typer.Option(min=1, help="Replies asked for one sample at most.")] = 3,
    conversation_boxes: Annotated[
        bool, typer.Option(help="Show the LLM boxes for conversations, too; the paper did not.")
    ] = False,
    reasoning_sees_dialogue: Annotated[
        bool, typer.Option(help="Show the reasoning prompt what was written for the same image.")
    ] = False,
    prompts: Annotated[Path | None, typer.Option(help="Folder of your own prompts.")] = None,
    param: Param = None,
    in_flight: InFlight = 16,
    timeout: Timeout = 120.0,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    patience: Patience = 60.0,
    ledger: LedgerFile = None,
    prices: Prices = None,
    max_cost: MaxCost = None,
    dry_run: Annotated[bool, typer.Option(help="Say what it would ask and cost, and end.")] = False,
    batch: Annotated[
        bool, typer.Option(help="Through files of the Batch API in OUT/batch, at half the price.")
    ] = False,
) -> None:
    """Turn annotated images into instruction data: conversation, detail, reasoning."""
    from vistune.data.generation.command import run_generate
    from vistune.data.generation.options import GenerateOptions

    given = {name: value for name, value in locals().items() if name in GenerateOptions.model_fields}
    for line in run_generate(GenerateOptions(**given)):
        print(line)


@app.command()
def curate(
    files: Annotated[list[Path], typer.Argument(help="caption<TAB>url|path: TSV, CSV, JSON lines, Parquet.")],
    out: Out,
    min_count: Annotated[int, typer.Option(min=1, help="Skip noun phrases in fewer captions.")] = 3,
    cap: Annotated[int, typer.Option(min=1, help="Captions drawn of a more frequent phrase.")] = 100,
    count_pool: Annotated[
        bool, typer.Option(help="Captions that rarer phrases brought count towards the cap.")
    ] = False,
    lower: Annotated[bool, typer.Option(help="Phrases in lower case.")] = True,
    drop_determiner: Annotated[bool, typer.Option(help="Phrases without a leading a, the, this ...")] = False,
    lemma: Annotated[bool, typer.Option(help="Phrases of lemmas: dogs is dog.")] = False,
    model: Annotated[str | None, typer.Option(help="spaCy model; default: an installed small one.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for many machines.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each core.")] = None,
    file_format: Annotated[str, typer.Option("--format", help="json, jsonl or parquet.")] = "json",
    longest: Annotated[int, typer.Option(min=1, help="Set aside captions of more characters.")] = 2000,
    seed: Seed = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the statistics here, too.")] = None,
) -> None:
    """Balance image-caption pairs by their noun phrases, as the paper filtered CC3M."""
    from vistune.data.curate.phrases import Normalisation
    from vistune.data.curate.run import curate as run
    from vistune.data.curate.select import Rule
    from vistune.data.curate.settings import Settings

    result = run(
        files,
        out,
        Settings(
            Rule(min_count, cap, count_pool),
            Normalisation(lower, drop_determiner, lemma),
            seed,
            model,
            workers,
            engine,
            file_format,
            longest,
        ),
    )
    for name, value in result.summary().items():
        print(f"{name}: {value}")
    for reason, count in result.set_aside.items():
        print(f"set aside: {count} x {reason} (see {out / 'set_aside.jsonl'})")
    if json_file:
        json_file.write_text(json.dumps(result.summary(), indent=2) + "\n", encoding="utf-8")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="LLaVA-format file: JSON, JSON lines or Parquet.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures; look at each one.")] = None,
    decode: Annotated[bool, typer.Option(help="Decode pictures in full: slower, finds every flaw.")] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count tokens with it: folder, hub name or `starter`.")
    ] = None,
    template: Annotated[str, typer.Option(help="Conversation template.")] = "vicuna_v1",
    image_tokens: Annotated[int, typer.Option(min=0, help="Tokens that one picture takes.")] = 576,
    max_length: Annotated[int, typer.Option(min=1, help="Longest sample in tokens.")] = 2048,
    show: Annotated[int, typer.Option(min=0, help="Findings to print of each reason.")] = 10,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that look at pictures; default: one for each core.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all findings here.")] = None,
) -> None:
    """Check a data set before training on it; exit code 1 where it has errors."""
    from vistune.data.check.run import CheckSettings, check_and_tell

    settings = CheckSettings(tokenizer, template, image_tokens, max_length, decode, workers)
    if not check_and_tell(data, images, settings, json_file, show).ok:
        raise typer.Exit(1)


@app.command()
def split(
    data: Annotated[list[Path], typer.Argument(help="LLaVA-format files: JSON, JSON lines or Parquet.")],
    out: Annotated[Path, typer.Option(help="Folder to write: train/ and val/ in it; must be new.")],
    val: Annotated[str, typer.Option(help="What is held out: a share of the pictures, or a number.")] = "5%",
    seed: Seed = 0,
) -> None:
    """Hold out pictures, with all dialogues on them, to validate on."""
    from vistune.data.split import Share
    from vistune.data.split import split as run

    for line in run(data, Share.parse(val), out, seed).lines():
        print(line)


@app.command()
def audit(
    data: Annotated[Path, typer.Argument(help="LLaVA-format file, or a folder that `generate` wrote.")],
    instances: Annotated[Path, typer.Option(help="COCO instances file of the pictures.")],
    out: Out,
    captions: Annotated[
        Path | None, typer.Option(help="COCO captions file: what captions name is there, too.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures, for the gallery.")] = None,
    similarity: Annotated[float, typer.Option(min=0.0, max=1.0, help="Least, of near-duplicates.")] = 0.8,
    gallery: Annotated[int, typer.Option(min=0, help="Records on the page, drawn at random.")] = 24,
    flagged: Annotated[int, typer.Option(min=0, help="Records on the page of each flag, at most.")] = 12,
    seed: Seed = 0,
) -> None:
    """Say what is wrong with instruction data: invented objects, leaks, duplicates; on a page."""
    from vistune.data.audit.run import AuditSettings
    from vistune.data.audit.run import audit as run

    result = run(data, instances, out, captions, images, AuditSettings(similarity, gallery, flagged, seed))
    print(result.summary())
    print(result.page)


@convert.command("scienceqa")
def convert_scienceqa(
    problems: Annotated[Path, typer.Option(help="The official problems.json.")],
    images: Annotated[Path, typer.Option(help="Folder of the pictures: SPLIT/ID/image.png.")],
    out: Annotated[Path, typer.Option(help="LLaVA-format file to write; must be new.")],
    splits: Annotated[Path | None, typer.Option(help="pid_splits.json.")] = None,
    split: Annotated[str, typer.Option(help="train, val, test, trainval, minitrain ...")] = "train",
    order: Annotated[str, typer.Option(help="lea: reasons, then the answer; or answer-first.")] = "lea",
) -> None:
    """ScienceQA's problems as conversations to train on."""
    from vistune.data.scienceqa.convert import run_convert

    for line in run_convert(problems, splits, split, order, images, out):
        print(line)


app.add_typer(convert, name="convert")
