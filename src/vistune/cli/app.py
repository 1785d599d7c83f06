"""The command line's root."""

from __future__ import annotations

from typing import Annotated

import typer

from vistune import __version__

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
convert = typer.Typer(no_args_is_help=True, help="Turn a published data set into instruction data.")


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
