"""Pre-trained parts, by hub name or folder: vision encoder, LLM, tokenizer, preprocessing.

No code that comes with weights is run (``trust_remote_code`` is off).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.images import Preprocessor
from vistune.errors import VistuneError
from vistune.folders import RUN, is_run
from vistune.model import hub
from vistune.model.adapters import quantisation
from vistune.model.limits import check_logits

_STARTER = Path(__file__).parent / "starter"
_STARTER_NAMES = {
    "starter": _STARTER / "chat",
    "starter/vision": _STARTER / "vision",
    "starter/llm": _STARTER / "llm",
}
_UNREADABLE = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)
_VOCABULARY_MULTIPLE = 64  # matrix products are fastest at whole multiples
_Part = TypeVar("_Part")


def resolve(name: str) -> Path | str:
    """Return the folder of an embedded part, an existing folder, or ``name`` itself (a hub name).

    A run's folder stands for its last stage's checkpoint.

    Raises:
        VistuneError: a run's last stage is not finished.
    """
    if name in _STARTER_NAMES:
        return _STARTER_NAMES[name]
    if is_run(Path(name)):
        return _last_checkpoint(Path(name))
    return Path(name) if Path(name).exists() else name


def _last_checkpoint(run: Path) -> Path:
    try:
        stages = list(json.loads((run / RUN).read_text(encoding="utf-8"))["recipe"]["stages"])
        last = run / stages[-1] / "checkpoint"
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise VistuneError(f"{run / RUN}: is not the record of a run ({error}).") from error
    if not last.is_dir():
        raise VistuneError(
            f"{run}: the run's last stage, {stages[-1]}, is not finished. Resume it: vistune train {run}; or "
            f"name a checkpoint that is there, or export a save: vistune export {run}/STAGE/saves/STEP."
        )
    return last


def load_vision(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The vision encoder ``name``, in ``dtype``; of a whole CLIP or SigLIP model, its vision half.

    Raises:
        VistuneError: it cannot be loaded, or weights are missing.
    """
    return guarded(lambda: _load_vision(resolve(name), dtype), f"The vision encoder {name!r}")


def load_llm(name: str, quantise: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """The LLM ``name`` with its head, in ``dtype``, or in 4 bits on the GPU (``nf4``).

    Raises:
        VistuneError: it cannot be loaded, weights are missing, or LLaVA's format cannot hold it.
    """
    return guarded(lambda: _load_llm(resolve(name), quantise, dtype), f"The LLM {name!r}")


def load_tokenizer(name: str, language_model: Any) -> tuple[Any, int]:
    """The LLM's tokenizer and the id of the image token; both, and the LLM, are extended where it lacks it.

    Raises:
        VistuneError: it cannot be loaded, or has no end-of-sequence token.
    """
    tokenizer, image_token = prepared_tokenizer(name)
    rows = language_model.get_input_embeddings().num_embeddings
    if (needed := grown(rows, tokenizer)) > rows:
        _grow(language_model, needed)
    return tokenizer, image_token


def prepared_tokenizer(name: str) -> tuple[Any, int]:
    """Return the LLM's tokenizer with an image token, and that token's id.

    Raises:
        VistuneError: it cannot be loaded, or has no end-of-sequence token.
    """
    tokenizer = read_tokenizer(name)
    if IMAGE_PLACEHOLDER not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens(
            {"extra_special_tokens": [IMAGE_PLACEHOLDER]}, replace_extra_special_tokens=False
        )
    if getattr(tokenizer, "image_token", IMAGE_PLACEHOLDER) != IMAGE_PLACEHOLDER:
        tokenizer.image_token = IMAGE_PLACEHOLDER  # that of LLaVA's processor, too
    if tokenizer.eos_token_id is None:
        raise VistuneError(f"{name}: its tokenizer has no `eos_token`, which ends an answer. Set one.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, int(tokenizer.convert_tokens_to_ids(IMAGE_PLACEHOLDER))


def grown(rows: int, tokenizer: Any) -> int:
    """Return how many embeddings an LLM of ``rows`` needs for every id of ``tokenizer``."""
    needed = max(tokenizer.get_vocab().values()) + 1
    return rows if needed <= rows else -(-needed // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def read_tokenizer(name: str | Path) -> Any:
    """The tokenizer in a folder or of a hub name."""
    from transformers import AutoTokenizer

    place = resolve(str(name))
    return guarded(
        lambda: AutoTokenizer.from_pretrained(place, trust_remote_code=False, **hub.settings(place)),
        f"The tokenizer of {str(name)!r}",
    )


def load_whole(kind: Any, name: str | Path, **settings: Any) -> Any:
    """A model of transformers by folder or hub name, every weight in its place.

    Raises:
        VistuneError: weights are missing, left over, or of another shape than the configuration says.
    """
    place = resolve(str(name))
    return guarded(lambda: _complete(kind, place, strict=True, **settings), f"The checkpoint {str(name)!r}")


def read_preprocessor(name: str | Path) -> Preprocessor:
    """How pictures are prepared for the encoder or checkpoint ``name``.

    Raises:
        VistuneError: its ``preprocessor_config.json`` is missing or says something we cannot do.
    """
    found = read_json(name, "preprocessor_config.json")
    if found is None:  # newer checkpoints keep it within the processor's
        found = (read_json(name, "processor_config.json") or {}).get("image_processor")
    if found is None:
        raise VistuneError(
            f"{name}/preprocessor_config.json: missing; it says how pictures are prepared for the vision "
            "encoder. Copy it from the encoder's repository."
        )
    try:
        return Preprocessor.from_config(found)
    except VistuneError as error:
        raise VistuneError(f"{name}/{error}") from error


def read_config(name: str | Path) -> Any:
    """The configuration of a folder or hub name."""
    from transformers import AutoConfig

    place = resolve(str(name))
    config = guarded(
        lambda: AutoConfig.from_pretrained(place, trust_remote_code=False, **hub.settings(place)),
        f"{str(name)!r}: its config.json",
    )
    layers = getattr(config, "vision_feature_layer", None)
    if isinstance(layers, list | tuple) and len(layers) == 1:
        config.vision_feature_layer = layers[0]  # transformers reads one layer from either
    return config


def find_file(name: str | Path, file: str) -> str | None:
    """Return the path of a folder's or hub repository's ``file``, or None if it has none."""
    from transformers.utils import cached_file

    def find() -> Any:
        quiet = dict.fromkeys(
            ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
        )
        place = resolve(str(name))
        return cached_file(str(place), file, **quiet, **hub.settings(place))

    path: str | None = guarded(find, f"{file} of {str(name)!r}")
    return path


def read_json(name: str | Path, file: str) -> dict[str, Any] | None:
    """A JSON file of a folder or hub repository, or None where there is none."""
    path = find_file(name, file)
    if path is None:
        return None
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise VistuneError(f"{name}/{file}: not valid JSON: {error}") from error
    return content


def hush() -> None:
    """No progress bars of transformers: reading and writing weights is not long work here."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def guarded(load: Callable[[], _Part], what: str) -> _Part:
    """Load; what a library says against ``what`` becomes a VistuneError."""
    try:
        return load()
    except _UNREADABLE as error:
        raise VistuneError(f"{what} cannot be loaded: {error}") from error


def _load_vision(place: Path | str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel, CLIPVisionModel, SiglipVisionModel

    config = read_config(place)
    halves = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}
    kind = halves.get(config.model_type, AutoModel)
    return _complete(kind, place, dtype=dtype)


def _load_llm(place: Path | str, quantise: str | None, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    extra = quantisation(("lm_head",)) if quantise else {}
    language_model = _complete(AutoModelForCausalLM, place, dtype=dtype, **extra)
    check_logits(language_model, str(place))
    return language_model


def _complete(kind: Any, place: Path | str, strict: bool = False, **settings: Any) -> Any:
    """Load, and see that every weight was there; where ``strict``, that none was left over."""
    settings |= hub.settings(place)
    model, info = kind.from_pretrained(place, trust_remote_code=False, output_loading_info=True, **settings)
    for what, keys in (("missing", "missing_keys"), ("not part of the model", "unexpected_keys")):
        if info[keys] and (strict or keys == "missing_keys"):
            raise ValueError(
                f"config.json and the weights disagree: {len(info[keys])} weights are {what}, such as "
                f"{min(info[keys])}. Use the files that were saved together."
            )
    return model


def _grow(language_model: Any, vocabulary: int) -> None:
    """Make room for new tokens; each begins as the mean of all that were there.

    Embeddings are in float32 then: in 16 bits the mean would be rounded.
    """
    layers = [language_model.get_input_embeddings(), language_model.get_output_embeddings()]
    for layer in layers:
        layer.weight.data = layer.weight.data.float()
    means = [layer.weight.detach().mean(0) for layer in layers]
    before = layers[0].num_embeddings
    language_model.resize_token_embeddings(vocabulary, mean_resizing=False)
    layers = [language_model.get_input_embeddings(), language_model.get_output_embeddings()]
    with torch.no_grad():
        for layer, mean in zip(layers, means, strict=True):
            layer.weight[before:] = mean
