"""What ``vistune evaluate`` does, and tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vistune.errors import VistuneError
from vistune.evaluate.answering.run import ANSWERS, Asking, Evaluation, evaluate, questions_for
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.registry import find_bench
from vistune.evaluate.published import published_beside
from vistune.evaluate.report.page import write_page
from vistune.evaluate.score import score_outcomes
from vistune.evaluate.sheet import read_sheet
from vistune.evaluate.table import render, score_parts
from vistune.llm.options import AskOptions

PAGE = "report.html"


def evaluate_and_tell(
    name: str,
    bench_name: str,
    files: BenchFiles,
    images: Path | None,
    out: Path,
    asking: Asking,
    llm: AskOptions | None = None,
) -> Iterator[str]:
    """Run the command; yields what it tells at the end.

    Args:
        llm: the text-only LLM that answers from the words alone, in the place of a checkpoint.

    Raises:
        VistuneError: as :func:`vistune.evaluate.answering.run.evaluate`; or the LLM had to stop early, after
            what it answered is written.
    """
    if llm is None:
        yield from _tell(evaluate(name, bench_name, files, images, out, asking), files, images, out)
    else:
        yield from _ask_llm(llm, bench_name, files, images, out, asking)


def _ask_llm(
    llm: AskOptions, bench_name: str, files: BenchFiles, images: Path | None, out: Path, asking: Asking
) -> Iterator[str]:
    from vistune.evaluate.answering.endpoint import answer_by_llm

    if images is not None or asking.blind or asking.rows != Asking().rows:
        raise VistuneError("--images, --blind and --batch-size would be ignored: the LLM sees words alone.")
    bench = find_bench(bench_name)
    loaded, questions = questions_for(bench, files, asking)
    asked = answer_by_llm(questions, llm, out, asking.most or bench.most)
    if not bench.judged:
        scored = score_outcomes(bench, loaded, read_sheet(out / ANSWERS), files)
        scored.write(out)
        yield from _tell(Evaluation(bench, out / ANSWERS, scored, None), files, None, out)
    yield asked.spent
    if asked.stopped:
        raise asked.stopped


def _tell(done: Evaluation, files: BenchFiles, images: Path | None, out: Path) -> Iterator[str]:
    if done.scored is None:
        yield f"{done.answers}"
        yield f"Scored by a judge: vistune judge {done.bench.name} {done.answers} --data {files.data} ..."
        return
    published = published_beside([done.scored])
    yield render(score_parts([done.scored], published, done.blind))
    write_page(out / PAGE, [done.scored], published, images, blind=done.blind)
    yield f"{out / PAGE}"
