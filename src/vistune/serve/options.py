"""What is served, to whom, and how. No web server, no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vistune.errors import VistuneError
from vistune.serve.guards.limits import Limits

KEY_VARIABLE = "VISTUNE_API_KEY"


class ServeOptions(BaseModel):
    """What is served, to whom, and how.

    Attributes:
        checkpoints: folders or ``starter``, each by the name of its folder or as ``NAME=PATH``.
        engine: what answers: in this process, or started beside it.
        base_url: of an OpenAI-compatible server that answers; then ``checkpoints`` name its models, none
            for its only one.
        rows, cache, dtype, int8: of the built-in engine, see BuiltInOptions.
        engine_arguments: of the user's own, for vLLM or SGLang.
        allow_open: answer without a key although others reach the address.
        page: the chat at ``/``.
        store_votes: a file that votes are appended to; None: they are not taken.
        log_content: log questions and answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoints: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    engine: Literal["built-in", "vllm", "sglang"] = "built-in"
    base_url: str | None = None
    engine_arguments: tuple[str, ...] = ()
    limits: Limits = Limits()
    rows: int = Field(32, gt=0)
    cache: float = Field(1.0, ge=0)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    int8: bool = False
    allow_open: bool = False
    page: bool = True
    store_votes: Path | None = None
    log_content: bool = False


def options_of(**given: Any) -> ServeOptions:
    """The options of the command; what is None was not given.

    Raises:
        VistuneError: a value that an option cannot have.
    """
    try:
        return ServeOptions(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise VistuneError(f"{flag} {first['input']!r}: {first['msg']}.") from error


def named(checkpoints: tuple[str, ...]) -> dict[str, str]:
    """Names and checkpoints.

    Raises:
        VistuneError: two of one name, or an empty one.
    """
    models: dict[str, str] = {}
    for given in checkpoints:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = Path(given).resolve().name, given
        if not name.strip() or not path:
            raise VistuneError(f"{given!r}: expected a checkpoint, or NAME=CHECKPOINT.")
        if name in models:
            raise VistuneError(f"Two models are named {name!r}. Name one of them: NAME={path}")
        models[name] = path
    return models


def refuse_ignored(options: ServeOptions) -> None:
    """Raises:
    VistuneError: a setting that would change nothing, or nothing to serve.
    """
    given = options.model_fields_set
    built_in = {"cache", "dtype", "int8"} & given
    if options.base_url is not None and "engine" in given:
        raise VistuneError("--engine would be ignored beside --base-url. Leave one of them out.")
    if (options.base_url is not None or options.engine != "built-in") and built_in:
        raise VistuneError(f"`{min(built_in)}` is of the built-in engine and would be ignored here.")
    if options.engine_arguments and (options.base_url is not None or options.engine == "built-in"):
        raise VistuneError("Arguments for an engine need --engine vllm or --engine sglang.")
    if options.base_url is None and not options.checkpoints:
        raise VistuneError("Name a checkpoint to serve, such as `starter`, or give --base-url.")


def read_key() -> str | None:
    """The key that clients must send; None: none is asked for.

    Raises:
        VistuneError: the variable holds no key.
    """
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key and key):
        raise VistuneError(f"{KEY_VARIABLE} is empty, or holds characters that no key has. Set or unset it.")
    return key
