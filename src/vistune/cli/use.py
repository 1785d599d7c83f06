"""Commands that use what was trained, and those that run the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistune.cli.app import app, starter
from vistune.cli.options import Out, Seed


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
