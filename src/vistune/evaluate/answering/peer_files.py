"""A peer's files: any image-text-to-text checkpoint of transformers, with its processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from vistune.errors import VistuneError
from vistune.model import parts

_ON_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_UNREADABLE = (OSError, ValueError, RuntimeError, ImportError)


def load_peer(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Processor and model.

    Raises:
        VistuneError: there is no such folder, they cannot be loaded, there is no processor of pictures, or
            weights are missing.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = str(parts.resolve(name))
    if not Path(place).is_dir() and not _ON_THE_HUB.fullmatch(name):
        raise VistuneError(f"{name}: no such folder, and no name on the Hugging Face Hub (owner/name).")
    try:
        processor = AutoProcessor.from_pretrained(place, trust_remote_code=False)
        model, info = AutoModelForImageTextToText.from_pretrained(
            place, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except _UNREADABLE as error:
        raise VistuneError(
            f"{name}: cannot be loaded as an image-text-to-text model of transformers: {error}"
        ) from error
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        raise VistuneError(
            f"{name}: it has no processor of pictures and text, but a {type(processor).__name__}. Use "
            "all files of the checkpoint (preprocessor_config.json, processor_config.json, the tokenizer's)."
        )
    if info["missing_keys"]:
        raise VistuneError(
            f"{name}: {len(info['missing_keys'])} weights are missing, such as {min(info['missing_keys'])}. "
            "Use the files that were saved together."
        )
    return processor, model
