"""The command line: one verb a step, in the order data flows. Heavy imports wait until a verb needs them."""

from __future__ import annotations

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
    out: Out,
    captions: Annotated[Path | None, typer.Option(help="COCO captions file.")] = None,
    instances: Annotated[Path | None, typer.Option(help="COCO instances file.")] = None,
    teacher: Annotated[str, typer.Option(help="Who writes: `offline`, rules that need no LLM.")] = "offline",
    seed: Seed = 0,
) -> None:
    """Turn annotated images into instruction data: conversation, detail, reasoning."""
    from vistune.data.coco import load_coco
    from vistune.data.generate import generate as run
    from vistune.data.scripted import OfflineTeacher

    if teacher != "offline":
        raise VistuneError(f"Unknown teacher {teacher!r}. Choose: offline.")
    annotations = load_coco(captions, instances, images)
    result = run(annotations, OfflineTeacher(annotations.categories), out, seed)
    for name, count in result.counts.items():
        print(f"{out / name}.json: {count}")
    for reason, count in result.set_aside.items():
        print(f"set aside: {count} x {reason} (see {out / 'set_aside.jsonl'})")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or a shipped recipe: starter.")],
    data: Annotated[Path, typer.Option(help="Folder of LLaVA-format files, as `generate` writes it.")],
    images: Annotated[Path, typer.Option(help="Folder of the pictures.")],
    out: Out,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, e.g. stages.instruct.epochs=2.")
    ] = None,
) -> None:
    """Train: align the connector, then instruct connector and LLM."""
    from vistune.recipe import load_recipe
    from vistune.train.loop import train as run

    print(run(load_recipe(recipe, overrides), data, images, out))


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
    """Rebuild the embedded parts from seeds (about an hour on two cores)."""
    from vistune.starter.build import build

    build(out, seed)
    print(out)


app.add_typer(starter, name="starter")


class _Interrupted(BaseException):
    """Ctrl-C, under a name that the command-line library does not turn into an exit of its own."""


def _interrupt(*_: object) -> NoReturn:
    raise _Interrupted


def main() -> NoReturn:
    """Run the command line; what the user can mend is told without a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except VistuneError as error:
        print(f"vistune: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except _Interrupted:
        print("vistune: interrupted; finished steps are kept, the same command goes on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
