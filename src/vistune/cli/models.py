"""Commands that train and move checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vistune.cli.app import app
from vistune.cli.options import Out
from vistune.errors import VistuneError


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Recipe file, a shipped one (starter, llava-7b ...), or a run's folder, to resume it."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of LLaVA-format files, as `generate` writes it.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder, zip file or tar shards of the pictures.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; must be new, or hold an interrupted run.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done, with a preview of what is learned.")
    ] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="With --dry-run: GPUs to estimate for; default: what is here.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="With --dry-run: tell the hours on this GPU: h100, a100, rtx4090 ...")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(min=1, help="With --dry-run: GiB of each GPU, if not what --gpu has.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, e.g. stages.instruct.epochs=2.")
    ] = None,
) -> None:
    """Train: align the connector, then instruct connector and LLM."""
    from vistune.folders import is_run
    from vistune.recipe import load_recipe

    if is_run(Path(recipe)):
        if data or images or out:
            raise VistuneError(f"{recipe}: a run, which knows its data, pictures and folder. Leave them out.")
        from vistune.train.record import read_run

        out = Path(recipe)
        described, data, images = read_run(out, overrides)
    else:
        described = load_recipe(recipe, overrides)
    if data is None or images is None or out is None:
        raise VistuneError("--data, --images and --out are needed, unless a run's folder is given to resume.")
    if devices is not None and not dry_run:
        raise VistuneError("--devices is for --dry-run; a run takes as many as torchrun starts.")
    if (gpu is not None or gpu_memory is not None) and not dry_run:
        raise VistuneError("--gpu and --gpu-memory are for --dry-run; a run takes the GPUs that there are.")
    if dry_run:
        from vistune.train.plan.command import plan_run

        plan_run(described, data, images, out, devices, gpu, gpu_memory)
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
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint folder, a save (RUN/STAGE/saves/STEP), or `starter`.")
    ],
    out: Out,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
) -> None:
    """Write a checkpoint for other tools: plain `llava`, half precision, nothing about the run."""
    from vistune.train.complete import export

    print(export(checkpoint, out, dtype))
