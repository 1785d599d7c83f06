"""Every causal LLM type of the installed transformers, and how vistune computes it: tried with tiny twins.

    python benchmarks/llm_sweep.py --out docs/llms.md

Each type is tried in a process of its own, with a time limit. The table says how a type is trained and who
writes its answers (vistune.model.computing), or why it is refused.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LENGTH = 64  # tokens of the longest sample
_SECONDS = 240
# Settings without which a type's default configuration is no model, or not what its name stands for.
_SETTINGS: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2": {"full_attn_idxs": [2, 5], "num_hidden_layers": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_hidden_layers": 4},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "phimoe": {"sliding_window": 2047},
}


@dataclass(frozen=True)
class Tried:
    """One row of the table."""

    kind: str
    rows: str
    decodes: str
    why: str

    def line(self) -> str:
        why = " ".join(self.why.replace("|", "/").split())[:240]
        return f"| {self.kind} | {self.rows} | {self.decodes} | {why} |"


def types() -> list[str]:
    """All causal LLM types of the installed transformers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def try_type(kind: str) -> Tried:
    """Judge the type's default configuration, as joining and the dry run do."""
    from transformers import CONFIG_MAPPING

    from vistune.errors import VistuneError
    from vistune.model.limits import check_decoder
    from vistune.model.probe import judge

    try:
        config = CONFIG_MAPPING[kind](**_SETTINGS.get(kind, {}))
    except Exception as error:  # a default configuration that transformers itself refuses
        return Tried(kind, "refused", "", f"it has no default configuration ({type(error).__name__})")
    try:
        check_decoder(config, "")
        found = judge(config, LENGTH)
    except VistuneError as error:
        return Tried(kind, "refused", "", _reason(str(error)))
    whys = dict.fromkeys(why for why in (found.why_rows, found.why_decodes) if why)
    return Tried(kind, found.rows, found.decodes, "; ".join(whys))


def _reason(message: str) -> str:
    """The message without what the table says already: whose it is, and the remedy."""
    reason = re.sub(r"^(: |The LLM \([^)]*\): )", "", message)
    return re.sub(r"[.;]? *Choose another (one|LLM)\.$", "", reason)


def sweep(kinds: Sequence[str], seconds: int = _SECONDS) -> Iterator[Tried]:
    """Try each type in a process of its own."""
    import transformers  # noqa: F401  # before the processes part

    context = multiprocessing.get_context("fork")
    for kind in kinds:
        here, there = context.Pipe()
        process = context.Process(target=_send, args=(there, kind))
        process.start()
        there.close()
        try:
            tried = (
                here.recv() if here.poll(seconds) else Tried(kind, "refused", "", f"no end in {seconds} s")
            )
        except EOFError:
            tried = Tried(kind, "refused", "", f"its process ended with {process.exitcode}")
        process.kill()
        process.join()
        yield tried


def _send(connection: Connection, kind: str) -> None:
    warnings.filterwarnings("ignore")
    connection.send(try_type(kind))


def table(rows: Sequence[Tried]) -> Iterator[str]:
    """Lines of the page, in Markdown."""
    import transformers

    counts = Counter(row.rows for row in rows)
    packed = sum(row.rows == "packed" and row.decodes == "shared" for row in rows)
    yield from (
        "# LLMs",
        "",
        f"Every causal LLM type of transformers {transformers.__version__}, tried with a tiny random",
        "model of each by `python benchmarks/llm_sweep.py --out docs/llms.md`.",
        f"Of {len(rows)} types, {counts['packed']} are packed ({packed} of them decoded by us, too),",
        f"{counts['padded'] + counts['single']} are computed alone, and {counts['refused']} are refused.",
        "",
        "- *trained*: `packed`, many dialogues in a row and pictures shared; `padded`, each dialogue alone",
        "  in padded batches; `single`, one dialogue at a time; `refused`, at joining and in the dry run.",
        "- *answers*: `shared`, our decoder, beginnings read once; `alone`, one by one with the cache of",
        "  transformers.",
        "- An LLM with `longrope` (Phi-3) or `dynamic` RoPE is packed as long as `model.max_length` is no",
        "  more than its original length. Beyond it, one dialogue at a time is computed.",
        "",
    )
    yield "| type | trained | answers | why |"
    yield "|---|---|---|---|"
    yield from (row.line() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", help="Types to try. Default: all.")
    parser.add_argument("--out", type=Path, help="Markdown file to write, e.g. docs/llms.md.")
    options = parser.parse_args()
    rows = []
    for tried in sweep(options.types or types()):
        rows.append(tried)
        print(tried.line(), flush=True)
    if options.out:
        options.out.write_text("\n".join(table(rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
