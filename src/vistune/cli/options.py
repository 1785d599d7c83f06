"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option(help="Folder to write; must be new, or hold an interrupted run.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes every random choice.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result here, too.")]

# Of an LLM that is asked over the network.
Model = Annotated[str, typer.Option(help="The LLM's name.")]
BaseUrl = Annotated[
    str | None, typer.Option(help="OpenAI-compatible endpoint, to /v1. The key: OPENAI_API_KEY.")
]
Param = Annotated[
    list[str] | None, typer.Option(help="Of every request, e.g. temperature=0.2; null leaves one out.")
]
InFlight = Annotated[int, typer.Option(min=1, help="Requests at a time.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one request.")]
PerMinute = Annotated[float | None, typer.Option(min=1)]
Patience = Annotated[
    float, typer.Option(min=0.1, help="Seconds without a success until the endpoint counts as down.")
]
LedgerFile = Annotated[Path | None, typer.Option(help="Where paid replies are kept; shared by runs.")]
Prices = Annotated[Path | None, typer.Option(help="Price table; see docs/data.md.")]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Dollars at most for this run; then stop.")]

# Of a benchmark.
BenchName = Annotated[
    str,
    typer.Argument(
        help="scienceqa, llava-bench-coco, llava-bench-wild, pope, vqa, chair, or own: your own questions."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", "--problems", help="The benchmark's questions, problems, labels or instances."),
]
Annotations = Annotated[Path | None, typer.Option(help="vqa: the ten human answers of each question.")]
Captions = Annotated[Path | None, typer.Option(help="chair: what COCO captions name is there, too.")]
Splits = Annotated[Path | None, typer.Option(help="scienceqa: pid_splits.json.")]
Split = Annotated[str | None, typer.Option(help="scienceqa: which split; default: test.")]
