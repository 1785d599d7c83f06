"""The command line: one verb a step, in the order data flows. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vistune import __version__
from vistune.errors import VistuneError

USAGE_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    name="vistune",
    help="Visual instruction tuning, whole: annotated images -> instruction data -> a visual assistant.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
starter = typer.Typer(no_args_is_help=True, help="The embedded small vision encoder and LLM.")

Out = Annotated[Path, typer.Option(help="Folder to write; must be new, or hold an interrupted run.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes every random choice.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vistune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Visual instruction tuning, whole."""


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
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint, to /v1. The key: OPENAI_API_KEY.")
    ] = None,
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
    param: Annotated[
        list[str] | None, typer.Option(help="Of every request, e.g. temperature=0.2; null leaves one out.")
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")] = 120.0,
    requests_per_minute: Annotated[float | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(min=1)] = None,
    patience: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a success until the endpoint counts as down.")
    ] = 60.0,
    ledger: Annotated[Path | None, typer.Option(help="Where paid replies are kept; shared by runs.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price table; see docs/data.md.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="Dollars at most for this run; then stop.")
    ] = None,
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


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or a shipped recipe: starter, llava-7b ...")],
    data: Annotated[Path, typer.Option(help="Folder of LLaVA-format files, as `generate` writes it.")],
    images: Annotated[Path, typer.Option(help="Folder, zip file or tar shards of the pictures.")],
    out: Out,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, with a preview of what is learned.")
    ] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="With --dry-run: GPUs to estimate for; default: what is here.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, e.g. stages.instruct.epochs=2.")
    ] = None,
) -> None:
    """Train: align the connector, then instruct connector and LLM."""
    from vistune.recipe import load_recipe

    described = load_recipe(recipe, overrides)
    if devices is not None and not dry_run:
        raise VistuneError("--devices is for --dry-run; a run takes as many as torchrun starts.")
    if dry_run:
        from vistune.train.plan.command import plan_run

        plan_run(described, data, images, devices)
        return
    from vistune.train.loop import train as run

    last = run(described, data, images, out)
    if os.environ.get("RANK", "0") == "0":
        print(last)


@app.command("import")
def import_llava(
    source: Annotated[str, typer.Argument(help="A plain Hugging Face `llava` folder or hub name.")],
    out: Out,
    template: Annotated[str, typer.Option(help="The conversation template that it was trained with.")],
) -> None:
    """Make a checkpoint of ours out of any LLaVA in Hugging Face's format."""
    from vistune.model.transfer import import_checkpoint

    print(import_checkpoint(source, out, template))


@app.command("export")
def export_llava(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or `starter`.")],
    out: Out,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
) -> None:
    """Write a checkpoint for other tools: plain `llava`, half precision, nothing about the run."""
    from vistune.model.transfer import export_checkpoint

    print(export_checkpoint(checkpoint, out, dtype))


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or `starter`.")],
    data: Annotated[Path, typer.Option(help="LLaVA-format file with questions and reference answers.")],
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    out: Out,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first so many questions.")] = None,
) -> None:
    """Ask unseen questions with and without the picture; score by exact match."""
    from vistune.evaluate.exact import table
    from vistune.evaluate.run import evaluate as run

    print(table(run(checkpoint, data, images, out, limit).scores))


@app.command()
def chat(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder, or `starter`.")],
    image: Annotated[Path | None, typer.Option(help="Picture to talk about.")] = None,
    ask: Annotated[str | None, typer.Option(help="Ask this one question and end.")] = None,
) -> None:
    """Talk with a checkpoint about a picture."""
    from vistune.serve.terminal import chat as run

    run(checkpoint, image, ask)


@app.command()
def quickstart(
    out: Out = Path("quickstart"),
    seed: Seed = 0,
    images: Annotated[int | None, typer.Option(min=8, help="Scenes to learn from.")] = None,
    val: Annotated[int | None, typer.Option(min=1, help="Unseen scenes to measure on.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings of the starter recipe.")] = None,
) -> None:
    """Run all steps on the sample world: world, generate, train, evaluate, report."""
    from vistune.quickstart import FULL, Size
    from vistune.quickstart import quickstart as run
    from vistune.recipe import load_recipe

    size = Size(images or FULL.train, FULL.val if val is None else val)
    metrics = run(out, seed, load_recipe("starter", overrides), size)
    print(f"accuracy {metrics['accuracy']:.1%}, without the picture {metrics['blind_accuracy']:.1%}")
    print(f"report   {out / 'report.html'}")
    print("Next, try:")
    print(f"  vistune chat {out / 'model'} --image {out / 'world' / 'images' / 'val_000000.jpg'}")
    print(f"  vistune chat starter --image {out / 'world' / 'images' / 'val_000001.jpg'}")


@starter.command("build")
def starter_build(out: Out, seed: Seed = 0) -> None:
    """Rebuild the embedded parts from seeds (about two hours on two cores)."""
    from vistune.starter.build import build

    build(out, seed)
    print(out)


app.add_typer(starter, name="starter")


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill, by a name that the command-line library does not make an exit of its own."""


def _interrupt(*_: object) -> NoReturn:
    raise _Interrupted


def main() -> NoReturn:
    """Run the command line; what the user can mend is told without a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except VistuneError as error:
        print(f"vistune: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except _Interrupted:
        print("vistune: interrupted; finished steps are kept, the same command goes on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
