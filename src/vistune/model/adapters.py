"""Low-rank adapters (LoRA) on the LLM, through peft; and 4-bit weights below them (QLoRA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from vistune.errors import VistuneError
from vistune.recipe import LoraRecipe

_NAME = "default"
_BASE = ".base_layer."


def add_adapters(language_model: Any, lora: LoraRecipe, seed: int) -> int:
    """Put an adapter on every linear layer but the LM head, in place; everything else is frozen.

    Returns:
        How many parameters the adapters have.

    Raises:
        VistuneError: peft is not installed, there are adapters already, or nothing to adapt.
    """
    _need("peft", "lora")
    from peft import LoraConfig, inject_adapter_in_model

    if has_adapters(language_model):
        raise VistuneError("The LLM has adapters already; one stage trains one set of them.")
    head = language_model.get_output_embeddings()
    targets = [
        name for name, m in language_model.named_modules() if isinstance(m, nn.Linear) and m is not head
    ]
    if not targets:
        raise VistuneError(
            f"A {language_model.config.model_type} has no linear layers to adapt; leave out `lora`."
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by it: a fraction is fine
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, wherever they go
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, language_model, adapter_name=_NAME)
    return train_adapters(language_model)


def train_adapters(language_model: nn.Module) -> int:
    """Train the adapters and nothing else of the LLM; returns how many parameters that are."""
    language_model.requires_grad_(False)
    adapters = list(_adapter_parameters(language_model))
    for _, parameter in adapters:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for _, parameter in adapters)


def has_adapters(module: nn.Module) -> bool:
    return any(True for _ in _adapter_parameters(module))


@torch.no_grad()
def merged_state(
    module: nn.Module, exact: Callable[[str, Tensor], Tensor] | None = None
) -> Iterator[tuple[str, nn.Parameter | Tensor]]:
    """Yield ``module``'s state with adapters merged, under the names it had without them.

    ``module`` is left as it is. An adapted weight is gathered, and computed in float32. Without adapters this
    is the ordinary state.

    Args:
        exact: returns the weight behind what is held, by name: not rounded to the run's precision.
    """
    adapted = {_adapted_name(name, m): m for name, m in module.named_modules() if hasattr(m, "lora_A")}
    for name, tensor in module.state_dict(keep_vars=True).items():
        plain = name.replace(_BASE, ".")
        if plain in adapted:
            yield plain, _merged(adapted[plain], plain, tensor, exact)
        elif not _is_adapter(name) and not (_BASE in name and "." in name.rpartition(_BASE)[2]):
            yield plain, tensor  # the rest: weight.absmax and the like belong to a quantised weight


def quantisation(skip: Sequence[str]) -> dict[str, Any]:
    """Settings of ``from_pretrained`` for nf4 with double quantisation, on this process's GPU.

    Args:
        skip: modules that stay as they are.

    Raises:
        VistuneError: bitsandbytes is not installed, or there is no GPU.
    """
    _need("bitsandbytes", "qlora")
    if not torch.cuda.is_available():
        raise VistuneError("lora.quantise: nf4 needs a CUDA GPU, and none was found. Leave it out here.")
    return {"quantization_config": nf4(skip), "device_map": {"": torch.cuda.current_device()}}


def nf4(skip: Sequence[str]) -> Any:
    """QLoRA's quantisation: 4-bit NormalFloat, its constants quantised too; computes in bfloat16."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(skip),
    )


def _merged(layer: Any, name: str, held: Tensor, exact: Callable[[str, Tensor], Tensor] | None) -> Tensor:
    """Return the adapted weight with its adapter in it: a new tensor on the CPU."""
    from peft.utils.integrations import dequantize_module_weight

    quantised = hasattr(held, "quant_state")  # adapters were trained on these weights, not on the files'
    weight = gathered(dequantize_module_weight(layer.get_base_layer()) if quantised else held)
    if exact is not None and not quantised:
        weight = exact(name, weight)
    return weight.float() + _delta(layer).float()


def _delta(layer: Any) -> Tensor:
    return gathered(layer.get_delta_weight(_NAME))


def _adapted_name(module: str, layer: Any) -> str:
    """Return the adapted weight's name without adapters."""
    return f"{module}.weight".replace(_BASE, ".")


def gathered(tensor: Tensor) -> Tensor:
    """Return ``tensor`` on the CPU, gathered if it is sharded (a DTensor)."""
    tensor = tensor.detach()
    gather = getattr(tensor, "full_tensor", None)
    return (tensor if gather is None else gather()).cpu()


def _adapter_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if _is_adapter(name))


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise VistuneError(f"`lora` needs {package}, which is not installed: pip install 'vistune[{extra}]'.")
