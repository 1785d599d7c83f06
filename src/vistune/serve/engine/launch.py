"""How vLLM and SGLang are started on a checkpoint, and whether they can be.

Both are told to run transformers' own implementation of the model, with which it was trained: it reads every
connector and LLM of ours and, DINOv2 in SGLang left aside, every vision encoder. vLLM's own (0.33.0) knows
CLIP and SigLIP and no linear connector; SGLang's own (0.5.23) refuses ``vision_feature_select_strategy:
default``, which is LLaVA's. Options are those of `vllm serve --help` and of
`python -m sglang.launch_server --help`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vistune.errors import VistuneError
from vistune.model import parts
from vistune.model.checkpoint import METADATA
from vistune.progress import say
from vistune.template import find_template

Kind = Literal["vllm", "sglang"]
KINDS: dict[Kind, str] = {"vllm": "vLLM", "sglang": "SGLang"}
HOST = "127.0.0.1"
_LENGTH: dict[Kind, str] = {"vllm": "--max-model-len", "sglang": "--context-length"}
_OURS = ("--host", "--port", "--served-model-name", "--model-path", "--model-impl", "--api-key")


@dataclass(frozen=True)
class Exported:
    """What of a checkpoint concerns an engine.

    Attributes:
        recipe: of the model, as ``vistune.json`` tells it.
        vision: kind of its encoder, as transformers calls it.
        context: tokens that it was trained to read.
        special: texts that its tokenizer reads as one special token.
        stop: the text that ends an answer, where no special token does.
    """

    folder: Path
    recipe: dict[str, Any]
    dtype: str
    vision: str
    context: int
    special: tuple[str, ...]
    stop: str | None


def read_exported(folder: Path) -> Exported:
    """Look at a checkpoint before minutes are spent on starting an engine.

    Raises:
        VistuneError: it is no checkpoint of ours, or its tokenizer adds BOS, which the chat template writes.
    """
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        if "adapters" in metadata:
            raise VistuneError(
                f"{folder}: holds adapters without the weights they are for. Run `vistune export {folder} "
                "--out OUT` and serve OUT."
            )
        told = metadata["model"]
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        context, vision = int(told["max_length"]), str(config["vision_config"]["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VistuneError(
            f"{folder}: not a checkpoint of vistune ({error}). Pass what `vistune export` wrote; another "
            "server can be started by hand and given with --base-url."
        ) from error
    tokenizer = parts.read_tokenizer(folder)
    tokenizer.chat_template = metadata.get("llm_chat_template")
    if tokenizer.encode("x")[0] != tokenizer.encode("x", add_special_tokens=False)[0]:
        raise VistuneError(
            f"{folder}: its tokenizer begins every text with BOS, and so does its chat template: another "
            f"engine may read it twice. Run `vistune export {folder} OUT` and serve OUT."
        )
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    added = tokenizer.added_tokens_decoder.values()
    special = tuple(sorted(token.content for token in added if token.special))
    stop = find_template(told["template"], tokenizer).stop
    return Exported(folder, told, dtype, vision, context, special, None if stop in special else stop)


def command_of(kind: Kind, exported: Exported, model: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """What is run; ``more``: arguments of the user's own, which win over ours where both name one.

    Raises:
        VistuneError: the engine is not installed or does not load it, or ``more`` names what is ours.
    """
    for argument in more:
        if argument.split("=")[0].replace("_", "-") in _OURS:
            raise VistuneError(f"{argument}: is set by vistune. Leave it out.")
    if kind == "sglang" and exported.vision.startswith("dinov2"):
        raise VistuneError(
            f"{exported.folder}: SGLang does not know the names under which transformers stores DINOv2's "
            "weights. Use --engine vllm, or the built-in engine."
        )
    if exported.dtype == "float32":
        say(
            f"{exported.folder}: its weights are float32, twice what {KINDS[kind]} keeps of them. "
            f"`vistune export {exported.folder} OUT` writes float16."
        )
    path = str(exported.folder)
    where = ["--host", HOST, "--port", str(port), "--served-model-name", model]
    how = ["--model-impl", "transformers", _LENGTH[kind], str(exported.context)]
    start = [*_vllm(), "serve", path] if kind == "vllm" else [*_sglang(), "--model-path", path]
    return [*start, *where, *how, *more]


def _vllm() -> list[str]:
    program = shutil.which("vllm")
    if program is None:
        raise _missing("vllm")
    return [program]


def _sglang() -> list[str]:
    if importlib.util.find_spec("sglang") is not None:
        return [sys.executable, "-m", "sglang.launch_server"]
    program = shutil.which("sglang")  # of an environment of its own
    if program is None:
        raise _missing("sglang")
    return [program, "serve"]


def _missing(kind: Kind) -> VistuneError:
    return VistuneError(
        f"--engine {kind}: {KINDS[kind]} is not installed here. It wants a torch and a transformers of its "
        f"own choice, so give it its own environment: `python -m venv {kind}` and "
        f"`{kind}/bin/pip install {kind}`; then put {kind}/bin on the PATH."
    )
