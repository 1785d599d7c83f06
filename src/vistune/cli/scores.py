"""Commands that measure: answers, scores, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vistune.cli.app import app
from vistune.cli.options import (
    Annotations,
    BaseUrl,
    BenchName,
    Captions,
    Data,
    InFlight,
    JsonFile,
    LedgerFile,
    MaxCost,
    Model,
    Out,
    Param,
    Patience,
    PerMinute,
    Prices,
    Split,
    Splits,
    Timeout,
)

Images = Annotated[Path | None, typer.Option(help="Folder, zip file or tar shards of the pictures.")]


@app.command()
def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(help="Checkpoint folder, `starter`, any image-text-to-text checkpoint, or an LLM."),
    ],
    bench: BenchName,
    out: Out,
    data: Data = None,
    images: Images = None,
    annotations: Annotations = None,
    captions: Captions = None,
    splits: Splits = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first so many questions.")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="Ask all again without the pictures.")] = False,
    instruction: Annotated[
        str | None, typer.Option(help="A line to add to each question, e.g. for short answers.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together at most.")] = 64,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; default: the benchmark's own.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible endpoint, to /v1: its LLM answers from the words alone."),
    ] = None,
    param: Param = None,
    in_flight: InFlight = 16,
    ledger: LedgerFile = None,
    prices: Prices = None,
    max_cost: MaxCost = None,
) -> None:
    """Ask a model a benchmark's questions, and score the answers."""
    from vistune.evaluate.answering.command import evaluate_and_tell
    from vistune.evaluate.answering.run import Asking
    from vistune.evaluate.benches.bench import BenchFiles
    from vistune.llm.options import AskOptions, asked_for

    files = BenchFiles(data, annotations, captions, splits, split)
    asking = Asking(limit, blind, batch_size, max_new_tokens, instruction)
    model = checkpoint if base_url else None
    given = {name: value for name, value in locals().items() if name in AskOptions.model_fields}
    for line in evaluate_and_tell(checkpoint, bench, files, images, out, asking, asked_for(given)):
        print(line)


@app.command()
def score(
    bench: BenchName,
    answers: Annotated[list[Path], typer.Argument(help="Answers, or a judge's reviews; one file a run.")],
    data: Data = None,
    annotations: Annotations = None,
    captions: Captions = None,
    splits: Splits = None,
    split: Split = None,
    stored_indices: Annotated[
        bool, typer.Option("--stored-indices", help="scienceqa: the file's indices, not its texts.")
    ] = False,
    images: Images = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, with a page; must be new.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Score answers that are there already; no model is needed."""
    from vistune.evaluate.benches.bench import BenchFiles
    from vistune.evaluate.score import run_score

    files = BenchFiles(data, annotations, captions, splits, split, stored_indices)
    run_score(bench, answers, files, images, out, json_file)


@app.command()
def judge(
    bench: Annotated[str, typer.Argument(help="llava-bench-coco or llava-bench-wild.")],
    answers: Annotated[Path, typer.Argument(help="The candidate's answers.")],
    data: Annotated[Path, typer.Option(help="The benchmark's questions.")],
    context: Annotated[Path, typer.Option(help="What the judge is told of each picture.")],
    references: Annotated[Path, typer.Option(help="The answers to compare with.")],
    model: Model,
    out: Out,
    runs: Annotated[int, typer.Option(min=1, help="Judge everything so often.")] = 1,
    swap: Annotated[
        bool, typer.Option("--swap", help="Judge again with the places exchanged: the position bias.")
    ] = False,
    attempts: Annotated[int, typer.Option(min=1, help="Replies asked for one review at most.")] = 3,
    prompt: Annotated[Path | None, typer.Option(help="Your own prompt file.")] = None,
    base_url: BaseUrl = None,
    param: Param = None,
    in_flight: InFlight = 16,
    timeout: Timeout = 120.0,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    patience: Patience = 60.0,
    ledger: LedgerFile = None,
    prices: Prices = None,
    max_cost: MaxCost = None,
) -> None:
    """Let an LLM compare answers with references: LLaVA-Bench's relative score."""
    from vistune.evaluate.judge.command import run_judge
    from vistune.evaluate.judge.options import JudgeOptions

    given = {name: value for name, value in locals().items() if name in JudgeOptions.model_fields}
    for line in run_judge(JudgeOptions(**given)):
        print(line)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder that `evaluate` or `score --out` wrote.")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same benchmark.")],
    images: Images = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, with a page; must be new.")] = None,
    json_file: JsonFile = None,
    show: Annotated[int, typer.Option(min=0, help="Questions on the page at most.")] = 60,
) -> None:
    """Say whether two runs differ, question by question."""
    from vistune.evaluate.compare.run import compare_and_tell

    compare_and_tell(a, b, images, out, json_file, show)


@app.command()
def ensemble(
    rule: Annotated[str, typer.Argument(help="complement: the LLM, else the model; or judge.")],
    predictions: Annotated[Path, typer.Argument(help="The model's answers to ScienceQA.")],
    problems: Annotated[Path, typer.Option(help="problems.json.")],
    out: Annotated[Path, typer.Option(help="Predictions file to write.")],
    llm: Annotated[Path | None, typer.Option(help="The LLM's answers; without it, --model answers.")] = None,
    splits: Splits = None,
    split: Split = None,
    model: Annotated[str | None, typer.Option(help="The LLM's name.")] = None,
    base_url: BaseUrl = None,
    param: Param = None,
    in_flight: InFlight = 16,
    timeout: Timeout = 120.0,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: PerMinute = None,
    patience: Patience = 60.0,
    ledger: LedgerFile = None,
    prices: Prices = None,
    max_cost: MaxCost = None,
) -> None:
    """Join a model's answers to ScienceQA with a text-only LLM's (paper Table 7)."""
    from vistune.evaluate.benches.bench import BenchFiles
    from vistune.evaluate.ensemble import run_ensemble
    from vistune.llm.options import AskOptions, asked_for

    given = {name: value for name, value in locals().items() if name in AskOptions.model_fields}
    files = BenchFiles(data=problems, splits=splits, split=split)
    for line in run_ensemble(rule, predictions, llm, files, out, asked_for(given)):
        print(line)
