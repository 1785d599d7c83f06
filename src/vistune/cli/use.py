"""Commands that use what was trained, and those that run the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistune.cli.app import app, starter
from vistune.cli.options import Out, Seed


@app.command()
def chat(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint or run folder, or `starter`.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="Picture to talk about; may be given several times.")
    ] = None,
    ask: Annotated[str | None, typer.Option(help="Ask this one question and end.")] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest words.")] = 0.0,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest words that reach it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the draws.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 512,
    history: Annotated[bool, typer.Option(help="Remember what is typed for the next time.")] = True,
) -> None:
    """Talk with a checkpoint about pictures; /help there says how."""
    from vistune.serve.terminal import ChatOptions
    from vistune.serve.terminal import chat as run

    images = tuple(image or ())
    run(checkpoint, ChatOptions(images, ask, temperature, top_p, seed, max_tokens, history))


@app.command()
def serve(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoint or run folders, `starter`; NAME=FOLDER names one."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    engine: Annotated[str | None, typer.Option(help="built-in (the default), vllm or sglang.")] = None,
    engine_argument: Annotated[
        list[str] | None, typer.Option(help="Of vLLM's or SGLang's own, e.g. --max-model-len=4096.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server that answers, to /v1.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Requests answered together at most.")] = 32,
    cache: Annotated[
        float | None, typer.Option(min=0, help="Gigabytes for what conversations have read; default: 1.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="The LLM in 8 bits; needs torchao.")] = False,
    limit: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, e.g. queue=16 or pixels=20000000.")
    ] = None,
    remote_pictures: Annotated[
        bool, typer.Option("--remote-pictures", help="Fetch pictures from https: addresses.")
    ] = False,
    allow_open: Annotated[
        bool, typer.Option("--allow-open", help="Answer others without a key (VISTUNE_API_KEY).")
    ] = False,
    page: Annotated[bool, typer.Option(help="The chat page at /.")] = True,
    store_votes: Annotated[Path | None, typer.Option(help="File to append votes and flags to.")] = None,
    log_content: Annotated[bool, typer.Option("--log-content", help="Log what is said.")] = False,
) -> None:
    """Serve checkpoints: an OpenAI-compatible API, and a page to chat on."""
    from vistune.serve.guards.limits import parse_limits
    from vistune.serve.run import options_of
    from vistune.serve.run import serve as run

    run(
        options_of(
            checkpoints=tuple(checkpoints or ()),
            host=host,
            port=port,
            engine=engine,
            engine_arguments=tuple(engine_argument or ()),
            base_url=base_url,
            limits=parse_limits(limit or (), remote_pictures),
            rows=rows,
            cache=cache,
            dtype=dtype,
            int8=int8 or None,
            allow_open=allow_open,
            page=page,
            store_votes=store_votes,
            log_content=log_content,
        )
    )


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
